"""Whether a start of a job has finished, failed, or is requeued."""

from __future__ import annotations

import json

import pytest
from support.starts import leave_failure

from open_r1.errors import Unavailable
from open_r1.slurm import outcome
from open_r1.system import failures, network

pytest_plugins = ["support.starts"]


def test_the_earliest_failure_is_the_cause_and_echoes_of_it_are_not(start):
    leave_failure(start, message="RuntimeError: Connection closed by peer [10.0.0.2]", when=1.0)
    leave_failure(start, message="OSError: the disk is on fire", node="n2", rank=9, when=1.5)
    leave_failure(start, message="error: later", when=2.0)
    assert failures.find_first(start).message == "OSError: the disk is on fire"
    code, message = outcome.decide_outcome(start, 143)
    assert code == 1 and message.splitlines()[0].startswith("n2, rank 9, ") and "2 more failed" in message


@pytest.mark.parametrize(
    ("message", "more", "passing"),
    [
        ("RuntimeError: NCCL error: unhandled system error", {}, True),
        ("error: the process was ended by SIGABRT", {"code": 134}, True),
        ("OSError: seccomp is absent, maxid 3", {}, False),
        ("OSError: [Errno 116] Stale file handle", {}, True),
        ("error: the vLLM server on n2 ended", {"code": Unavailable.CODE}, True),
        ("error: the vLLM server on n2 ended", {"code": 2, "final": True}, False),
        ("torch.OutOfMemoryError: CUDA out of memory", {}, False),
        ("KeyError: 'prompt'", {}, False),
        ("error: gpus: Connection", {"final": True, "code": 2}, False),
    ],
)
def test_only_what_may_pass_is_tried_again(start, message, more, passing):
    leave_failure(start, message=message, **more)
    code, _ = outcome.decide_outcome(start, 1)
    assert (code == outcome.REQUEUE) == passing and (passing or code in (1, 2))


@pytest.mark.parametrize("stopped", [False, True])
def test_a_job_is_started_again_so_often_with_nothing_done_between(tmp_path, stopped):
    codes = []
    for number, step in enumerate((4, 4, 4, 8, 8, 8, 8)):
        start = tmp_path / "job" / f"start-{number}"
        start.mkdir(parents=True)
        if number != 2:  # this one fails while it loads
            (start / "run").write_text(f"{tmp_path / 'run'}\n")
        if stopped:
            (start / "stop").touch()
        leave_failure(start, message="TimeoutError: timed out")
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "manifest.json").touch()
        code, message = outcome.decide_outcome(start, 1)
        codes.append(code)
        assert (f"starts again: {tmp_path / 'run'} from checkpoint-{step}" in message) == (code == outcome.REQUEUE)
    assert codes == [75] * 6 + [1]


def test_what_srun_stops_after_a_failure_was_not_asked_to_stop(start):
    leave_failure(start, message="KeyError: 'prompt'", node="n2")
    (start / "head.json").write_text('{"code": 143}')
    assert outcome.decide_outcome(start, 143)[0] == 1


def test_what_fails_of_being_stopped_is_no_failure(start):
    leave_failure(start, message="error: the process was ended by SIGTERM")
    (start / "stop").touch()
    assert outcome.decide_outcome(start, 143) == (
        outcome.REQUEUE,
        "it was stopped, and starts again: from the beginning",
    )
    (start / "head.json").write_text('{"code": 0}')
    assert outcome.decide_outcome(start, 143) == (0, "")


def test_a_stop_does_not_hide_what_will_always_fail(start):
    leave_failure(start, message="error: the disk is full", code=2, final=True)
    (start / "stop").touch()
    code, message = outcome.decide_outcome(start, 143)
    assert code == 2 and "the disk is full" in message.splitlines()[0]


def test_a_stop_at_the_end_of_which_a_stage_had_failed_for_good_is_one(start):
    """In a pipeline in one job the other stages continue."""
    leave_failure(start, message="error: datasets: no", code=2, final=True)
    (start / "stop").touch()
    (start / "head.json").write_text('{"code": 143}')
    assert outcome.decide_outcome(start, 143)[0] == outcome.REQUEUE


def test_a_server_that_has_served_begins_anew(tmp_path):
    codes = []
    for number, served in enumerate((True, True, True, True, True, False, False, False, False)):
        start = tmp_path / "job" / f"start-{number}"
        start.mkdir(parents=True)
        (start / "stop").touch()
        if served:
            (start / network.SERVED).touch()
        codes.append(outcome.decide_outcome(start, 143)[0])
    assert codes == [75] * 7 + [1] * 2


@pytest.mark.parametrize(
    ("head", "step", "expected"), [(0, 0, 0), (143, 0, 75), (130, 0, 75), (75, 75, 1), (None, 9, 9)]
)
def test_a_start_without_failures(start, head, step, expected):
    if head is not None:
        (start / "head.json").write_text(json.dumps({"code": head}))
    assert outcome.decide_outcome(start, step)[0] == expected
