"""What the commands of Slurm print, parsed."""

from __future__ import annotations

import subprocess

import pytest

from open_r1.errors import RecipeError
from open_r1.slurm import commands


@pytest.mark.parametrize(
    ("time_limit", "expected"),
    [("30", 1800), ("1:30", 90), ("2:00:00", 7200), ("1-00:00:00", 86400), ("1-2", 93600), ("infinite", None)],
)  # fmt: skip
def test_limits_as_slurm_writes_them(time_limit, expected):
    assert commands.parse_time_limit(time_limit) == expected
    if expected is not None:
        assert commands.parse_time_limit(commands.format_time_limit(expected)) == expected


def test_a_partition_is_that_of_its_largest_nodes(monkeypatch):
    output = "gpu*|gpu:a100:8(S:0-1),nvme:1|128|1031000+|4|2-00:00:00\ngpu*|gpu:a100:8|64+|1030000|2|2-00:00:00\n"
    output += "cpu|(null)|64|256000|9|infinite\nmixed|vgpu:4,gpu:2|8|64000|1|30:00\n"
    monkeypatch.setattr(commands, "run_command", lambda *words: output)
    assert commands.find_partition(None) == commands.Partition("gpu", 8, 64, 1030000, 6, 172800)
    assert (commands.find_partition("cpu").gpus, commands.find_partition("cpu").limit) == (0, None)
    assert commands.find_partition("mixed").gpus == 2
    with pytest.raises(RecipeError, match="partition: there is none named 'gpus'; did you mean 'gpu'"):
        commands.find_partition("gpus")


def test_tasks_of_an_array_that_ended_long_ago(monkeypatch):
    """The queue and the controller know the others; only the accounting knows these."""
    output = {
        "squeue": "12|12_6|RUNNING|None|n1|1:30|28:30\n",
        "scontrol": "JobId=14 ArrayJobId=12 ArrayTaskId=5 JobState=COMPLETED Reason=None RunTime=00:00:09 NodeList=n2 "
        "ExitCode=0:0\nJobId=15 ArrayJobId=12 ArrayTaskId=7-9 JobState=PENDING Reason=Priority RunTime=00:00:00 "
        "NodeList=(null) ExitCode=0:0\n",
        "sacct": "12_3|FAILED|n1|00:00:07|2:0\n12_5|COMPLETED|n2|00:00:09|0:0\n12_[7-9]|PENDING||00:00:00|0:0\n",
    }
    monkeypatch.setattr(commands, "run_command", lambda name, *words, check=True: output[name])
    monkeypatch.setattr(commands.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert [(job.id, job.state) for job in commands.list_jobs(["12"])["12"]] == [
        ("12_6", "RUNNING"), ("12_5", "COMPLETED"), ("12_3", "FAILED"),
    ]  # fmt: skip


def test_that_slurm_does_not_answer_is_not_that_it_knows_no_job(monkeypatch):
    said = {"squeue": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"}

    def fails(words, **kwargs):
        return subprocess.CompletedProcess(words, 1, "", said.get(words[0], "disabled"))

    monkeypatch.setattr(commands.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(commands.subprocess, "run", fails)
    with pytest.raises(RecipeError, match=r"squeue: slurm_load_jobs error: Unable to contact"):
        commands.list_jobs(["12"])
    said["squeue"] = "slurm_load_jobs error: Invalid job id specified"
    assert commands.list_jobs(["12"]) == {}
