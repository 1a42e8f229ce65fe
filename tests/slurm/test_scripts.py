"""The scripts of slurm/ themselves, and what they ask of a site."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from conftest import ROOT

SCRIPTS = sorted((ROOT / "slurm").glob("*.slurm"))


def test_shellcheck_has_nothing_to_say():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    files = [*SCRIPTS, *(ROOT / "slurm").glob("*.sh"), ROOT / ".ci" / "run"]
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_directives_stand_before_the_first_command(script):
    """Slurm reads no further, and says nothing of those that come later."""
    lines = script.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert lines[0] == "#!/bin/bash" and not any(line.startswith("#SBATCH") for line in lines[first:])
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert {"#SBATCH --open-mode=append", "#SBATCH --requeue"} <= set(directives)


def test_nothing_in_the_scripts_is_of_one_cluster():
    for path in [*SCRIPTS, ROOT / "slurm" / "job.sh"]:
        text = path.read_text()
        assert not re.search(r"#SBATCH --(partition|account|qos|constraint|reservation|nodelist)", text)
        assert not re.search(r"(?<![\w$}{.])/(home|data|scratch|fsx|shared|opt)/", text)
        assert not re.search(r"\b(grep|sed|awk|yq)\b.*\.ya?ml", text), "a recipe is read in Python"


def test_every_line_of_the_site_example_is_a_comment_until_it_is_chosen():
    lines = (ROOT / "slurm" / "site.example.sh").read_text().splitlines()
    assert all(line.startswith("#") or not line for line in lines)
    chosen = "\n".join(re.sub(r"^#(?=export |OPEN_R1_|module )", "", line) for line in lines)
    without_modules = "module() { :; }\n" + chosen
    around = {"PATH": "/bin:/usr/bin", "USER": "me"}
    done = subprocess.run(["bash", "-euc", without_modules], capture_output=True, text=True, env=around)
    assert done.returncode == 0, done.stderr
