"""The cluster of these tests is one of several machines, loses them as they are lost, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import cluster
from support.cluster import Cluster

pytestmark = pytest.mark.skipif(cluster.missing() is not None, reason=f"no Slurm here: {cluster.missing()}")
SUPPORT = Path(__file__).parents[1] / "support"  # where the module `cluster` is


def left(mark: str) -> list[str]:
    """What there is of a cluster: names of the processes that have its mark or its mounts, and its folder."""
    of_processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes() + (folder / "mountinfo").read_bytes():
                of_processes.append((folder / "comm").read_text())
        except OSError:
            continue
    return of_processes + [path for path in [mark] if os.path.exists(path)]


def links(*words: str) -> set[int]:
    """Numbers of network devices, which are never used again, as names are."""
    said = subprocess.run(["ip", "-json", "link", "show", *words], env={"PATH": cluster.PATH}, capture_output=True)
    return {link["ifindex"] for link in json.loads(said.stdout)}


def test_a_step_of_two_nodes_has_two_hosts_and_their_gpus(tmp_path):
    with Cluster(tmp_path, gpus=2, gpu_type="h100") as slurm:
        said = slurm.run(
            "srun", "--nodes=2", "--gres=gpu:h100:2", "bash", "-c", "echo $(hostname) $CUDA_VISIBLE_DEVICES"
        )
        assert sorted(said.stdout.splitlines()) == ["n1 0,1", "n2 0,1"]
        # They know each other by name, and what one calls "localhost" is neither the other nor this machine.
        words = ("bash", "-c", "exec 3<>/dev/tcp/n1/6818 4<>/dev/tcp/n2/6818 && readlink /proc/self/ns/net")
        networks = slurm.run("srun", "--nodes=2", *words).stdout.splitlines()
        assert len({*networks, os.readlink("/proc/self/ns/net")}) == 3
        job = slurm.submit("--output", tmp_path / "%j.out", "--wrap", "echo said; exit 3")
        ended = slurm.wait(job)
        assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "3:0")
        with pytest.raises(AssertionError, match=r"(?s)is not RUNNING.*JobState=FAILED.*said"):
            slurm.wait(job, "RUNNING", timeout=0)
        with pytest.raises(AssertionError, match="invalid partition"):
            slurm.submit("--partition", "none", "--wrap", "true")
        assert f"{job}|FAILED" in slurm.run("sacct", "-c", "-n", "-P", "-o", "jobid,state").stdout


def test_a_job_begins_again_after_its_node_lost_power(tmp_path):
    out = tmp_path / "out"

    def said(lines: list[str]) -> bool:
        """True once it is; a job is RUNNING before its script is."""
        deadline = time.monotonic() + 20
        while not (out.exists() and out.read_text().splitlines() == lines) and time.monotonic() < deadline:
            time.sleep(0.1)
        return out.read_text().splitlines() == lines

    with Cluster(tmp_path, slurmd_timeout=3) as slurm:
        script = "echo $(hostname) ${SLURM_RESTART_COUNT:-0}; sleep 100"
        job = slurm.submit("--requeue", "--open-mode=append", "-w", "n2", "--output", out, "--wrap", script)
        slurm.wait(job, "RUNNING")
        assert said(["n2 0"])
        slurm.power_off("n2")
        assert slurm.wait(job, "PENDING")["Restarts"] == "1"
        assert "DOWN" in slurm.run("scontrol", "show", "node", "n2").stdout
        slurm.power_on("n2")
        assert slurm.wait(job, "RUNNING")["Restarts"] == "1"
        assert said(["n2 0", "n2 1"])
        slurm.power_off("n2")  # and so it is closed


def test_two_at_once_leave_nothing(tmp_path):
    with Cluster(tmp_path / "1", gpus=0) as first, Cluster(tmp_path / "2", nodes=("m1", "m2", "m3")) as second:
        both = [slurm.environment[cluster.MARK] for slurm in (first, second)]
        ends = [links("master", slurm.bridge) for slurm in (first, second)]
        of_both = set.union(*ends, links(first.bridge), links(second.bridge))
        assert [len(these) for these in ends] == [2, 3] and len(of_both) == 2 + 3 + 2
        assert sorted(first.run("srun", "-N2", "hostname").stdout.split()) == ["n1", "n2"]
        assert sorted(second.run("srun", "-N3", "hostname").stdout.split()) == ["m1", "m2", "m3"]
        assert all(left(mark) for mark in both)
        # A job that does not have the mark.
        job = second.submit("--export=NONE", "--output", tmp_path / "out", "--wrap", "echo $$; exec sleep 100")
        second.wait(job, "RUNNING")
    assert [left(mark) for mark in both] == [[], []]
    assert not of_both & links()


def test_a_test_run_that_is_killed_leaves_nothing(tmp_path):
    code = (
        "import os, signal, pathlib, cluster\n"
        f"print(cluster.Cluster(pathlib.Path({str(tmp_path)!r})).environment[cluster.MARK], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SUPPORT, stdout=subprocess.PIPE, text=True)
    mark, deadline = done.stdout.strip(), time.monotonic() + 20
    assert done.returncode == -signal.SIGKILL and mark
    while left(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left(mark) == []


def test_a_cluster_that_does_not_start_says_why(tmp_path):
    with pytest.raises(AssertionError, match=r"slurmctld does not answer(?s:.*)NoSuchKey"):
        Cluster(tmp_path, settings={"NoSuchKey": "1"})
