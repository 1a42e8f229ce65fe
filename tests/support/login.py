"""A cluster for all tests of a file, and what they do to its jobs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, path_with
from support import cluster, warm


class Site:
    """A cluster as its users see it: a checkout on a common disk, an environment, and jobs.

    Args:
        slurm: the cluster.
        folder: for what jobs leave beside their runs.
    """

    def __init__(self, slurm: cluster.Cluster, folder: Path):
        self.slurm = slurm
        self.jobs = folder / "jobs"
        self.around = {
            "OPEN_R1_JOBS": str(self.jobs),
            "OPEN_R1_PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": path_with(ROOT / "tests" / "support" / "scripts"),
        }

    def sbatch(self, *words: object, **around: str) -> str:
        """Submit a script of slurm/ from the checkout; the job's id."""
        given = ("--gpus-per-node=0", f"--output={self.jobs.parent}/%j.log")
        return self.slurm.submit(*given, *map(str, words), cwd=ROOT, **self.around | around)

    def command(self, *words: object, **around: str) -> subprocess.CompletedProcess[str]:
        """`open-r1 WORDS` on the login node."""
        given = ["-m", "open_r1.cli", *words]
        return warm.run(given, cwd=ROOT, env=self.slurm.environment | self.around | around)

    def log(self, id: str) -> str:
        path = self.jobs.parent / f"{id}.log"
        return path.read_text().replace("\r", "\n") if path.exists() else ""

    def until(self, there: Callable[[], object], id: str, seconds: float = 120) -> None:
        """Wait for something that a running job does."""
        deadline = time.monotonic() + seconds
        while not there():
            job = self.slurm.job(id)
            assert job["JobState"] not in cluster.FINAL, f"job {id} ended: {job}\n{self.log(id)}"
            assert time.monotonic() < deadline, f"job {id} does not get there\n{self.log(id)}"
            time.sleep(0.05)

    def done(self, id: str, state: str = "COMPLETED", seconds: float = 180) -> dict[str, str]:
        """A job once it is over."""
        job = self.slurm.wait(id, timeout=seconds)
        assert job["JobState"] == state, self.log(id)
        return job


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    # Jobs are preempted with half a minute's notice, which here is enough for a step and a checkpoint.
    notice = {"SlurmctldParameters": "preempt_send_user_signal"}
    with cluster.Cluster(
        folder, gpus=2, slurmd_timeout=3, settings=notice, partition_settings={"low": "GraceTime=30"}
    ) as slurm:
        yield Site(slurm, folder)
