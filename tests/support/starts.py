"""The folder of a start of a job, and failures in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from open_r1.system import failures, network


@pytest.fixture
def start(tmp_path, monkeypatch):
    folder = tmp_path / "7" / "start-0"
    folder.mkdir(parents=True)
    monkeypatch.setenv(network.START, str(folder))
    return folder


def leave_failure(start: Path, **values: object) -> None:
    folder = start / failures.FOLDER
    folder.mkdir(exist_ok=True)
    failure = {"message": "error: no", "node": "n1", "rank": 0, "when": 1.0, "code": 1, "final": False}
    (folder / f"{len(list(folder.iterdir()))}.json").write_text(json.dumps(failure | values))
