"""What a process writes when it fails."""

from __future__ import annotations

import time

from open_r1.errors import RecipeError
from open_r1.system import failures, network
from open_r1.system.failures import Failure

pytest_plugins = ["support.starts"]


CUDA = """CUDA error: uncorrectable ECC error encountered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."""


def test_a_process_leaves_its_first_failure(start, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    failures.record_error(RecipeError("gpus: no"))
    failures.record_error(ValueError("a later one"))
    failure = failures.find_first(start)
    assert (failure.message, failure.rank, failure.code, failure.final) == ("error: gpus: no", 3, 2, True)


def test_cudas_advice_does_not_hide_its_error(start):
    failures.record_error(RuntimeError(CUDA))
    failure = failures.find_first(start)
    assert failure.message == "RuntimeError: CUDA error: uncorrectable ECC error encountered" and failure.passing
    assert "TORCH_USE_CUDA_DSA" in failure.details


def test_what_a_process_has_to_say_goes_before_where_it_is_left(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(network.START, str(tmp_path / "file"))
    assert failures.record_error(RecipeError("no folder can be made there")) is None


def test_a_failure_is_a_line():
    at = time.mktime((2026, 11, 28, 12, 30, 5, 0, 0, -1))
    assert Failure("error: no", "n2", 3, at).line == "n2, rank 3, 12:30:05: error: no"
    assert Failure("error: no", "n2", None, at).line == "n2, 12:30:05: error: no"
