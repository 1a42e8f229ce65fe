"""The settings of a site (slurm/site.sh), and where the checkout keeps scripts, logs and notes of jobs."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from ..errors import RecipeError

SITE = "OPEN_R1_SITE"  # environment variable: path of the site's file, if not slurm/site.sh
SCRIPTS = Path("slurm")
LOGS = Path("runs/slurm")
SUBMITTED = "slurm.json"  # in the directory of a pipeline: the jobs of its stages


def load_site() -> dict[str, str]:
    """The environment of this process with the variables that slurm/site.sh exports.

    Raises:
        RecipeError: OPEN_R1_SITE names no file, or the file fails.
    """
    path = Path(os.environ.get(SITE, SCRIPTS / "site.sh"))
    if not path.is_file():
        if SITE in os.environ:
            raise RecipeError(f"{SITE}: there is no {path}; copy slurm/site.example.sh there, or unset {SITE}")
        return dict(os.environ)
    done = subprocess.run(["bash", "-c", 'source "$0" >&2 && env -0', path.resolve()], capture_output=True, text=True)
    if done.returncode:
        raise RecipeError(f"{path} ends with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return dict(pair.split("=", 1) for pair in done.stdout.split("\0") if "=" in pair)


@functools.cache
def find_jobs_folder() -> Path:
    """The folder in which jobs keep the folders of their starts."""
    return Path(load_site().get("OPEN_R1_JOBS", LOGS))
