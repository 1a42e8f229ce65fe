"""A site and its checkout: what slurm/site.sh says, and where scripts, logs and notes of jobs lie."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ..errors import RecipeError

SITE = "OPEN_R1_SITE"  # environment variable: the site's file, if not slurm/site.sh
SCRIPTS = Path("slurm")
LOGS = Path("runs/slurm")
SUBMITTED = "slurm.json"  # of a pipeline's directory: the jobs of its stages


def load_site() -> dict[str, str]:
    """This process's environment with what slurm/site.sh exports.

    Raises:
        RecipeError: it is not there though it is named, or fails.
    """
    path = Path(os.environ.get(SITE, SCRIPTS / "site.sh"))
    if not path.is_file():
        if SITE in os.environ:
            raise RecipeError(f"{SITE}: there is no {path}; copy slurm/site.example.sh there, or unset it")
        return dict(os.environ)
    done = subprocess.run(["bash", "-c", 'source "$0" >&2 && env -0', path.resolve()], capture_output=True, text=True)
    if done.returncode:
        raise RecipeError(f"{path} ends with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return dict(pair.split("=", 1) for pair in done.stdout.split("\0") if "=" in pair)


def find_jobs_folder(around: dict[str, str]) -> Path:
    """Where jobs keep what their nodes tell each other."""
    return Path(around.get("OPEN_R1_JOBS", LOGS))
