"""The state of runs and jobs without a cluster, and which stages are queued."""

from __future__ import annotations

import fcntl
from types import SimpleNamespace

import pytest
from support.starts import leave_failure

from open_r1.errors import RecipeError
from open_r1.slurm import commands, site, status, submit
from open_r1.system import failures, files, locks, network


def test_a_job_that_has_not_begun_its_run(tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN_R1_JOBS", str(tmp_path))
    site.find_jobs_folder.cache_clear()
    waits, ended = commands.Job("7", "PENDING", "BeginTime"), commands.Job("8", "FAILED", "", "n1", "0:09", "", "2:0")
    monkeypatch.setattr(commands, "list_jobs", lambda ids: {"7": [waits], "8": [ended]})
    (tmp_path / "8" / "start-0" / failures.FOLDER).mkdir(parents=True)
    leave_failure(tmp_path / "8" / "start-0", message="error: datasets: no")
    assert status.describe_run("7") == "job     7 PENDING (BeginTime)"
    assert status.describe_run("8").startswith("job     8 FAILED 2:0\nerror   n1, ")
    with pytest.raises(RecipeError, match="job 9: Slurm does not list this job"):
        status.describe_run("9")
    site.find_jobs_folder.cache_clear()


def test_how_a_run_stands_whose_job_loads_or_trains_another_first(tmp_path, monkeypatch):
    run, base = tmp_path / "run", tmp_path / "base"
    monkeypatch.setenv("OPEN_R1_JOBS", str(tmp_path / "jobs"))
    site.find_jobs_folder.cache_clear()
    runs = commands.Job("8", "RUNNING", "", "n1", "0:09", "59:51")
    assert status._find_state(run, []) == "not begun"
    assert status._find_state(run, [runs]) == "starting"
    run.mkdir()
    files.write_json(run / "status.json", {"state": "interrupted"})
    assert status._find_state(run, []) == "interrupted"
    assert status._find_state(run, [runs]) == "starting", "again, after a requeue"
    start = tmp_path / "jobs" / "8" / "start-1"
    start.mkdir(parents=True)
    (start / network.RUN).write_text(f"{base}\n")
    assert status._find_state(run, [runs]) == f"waits for {base}, which its job trains first"
    files.write_json(run / "status.json", {"state": "running"})
    assert status._find_state(run, []) == "interrupted", "a kill left no other state"
    with (run / locks.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert status._find_state(run, [runs]) == "running"
    files.write_json(run / "status.json", {"state": "failed"})
    assert status._find_state(run, [runs]) == "failed"
    site.find_jobs_folder.cache_clear()


def test_a_stage_that_is_at_work_is_queued(tmp_path, monkeypatch):
    """Its job has replaced the note that was written when it was submitted."""
    monkeypatch.setenv(network.JOB_LOG, "job.log")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    network.write_job_note(tmp_path)
    stage = SimpleNamespace(state="waiting", dir=tmp_path)
    monkeypatch.setattr(commands, "list_jobs", lambda ids: {"12": [commands.Job("12", "RUNNING")]})
    assert submit._find_queued([stage]) == [{"id": "12", "log": "job.log", "dir": str(tmp_path)}]
    monkeypatch.setattr(commands, "list_jobs", lambda ids: {"12": [commands.Job("12", "FAILED")]})
    assert submit._find_queued([stage]) == []
