"""Locks of lost nodes."""

from __future__ import annotations

import fcntl

import pytest

from open_r1.errors import RecipeError
from open_r1.system import locks


def test_the_lock_of_a_start_on_a_lost_node_is_no_obstacle(tmp_path, monkeypatch):
    with (tmp_path / locks.LOCK).open("w") as left_by_nfs:
        fcntl.flock(left_by_nfs, fcntl.LOCK_EX)
        left_by_nfs.write("job 12 on n1")
        left_by_nfs.flush()
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        monkeypatch.setenv("SLURMD_NODENAME", "n2")
        assert locks.find_holder(tmp_path) == "job 12 on n1"
        with pytest.raises(RecipeError, match="another process"):
            locks.lock_directory(tmp_path)
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert locks.find_holder(tmp_path) is None
        locks.lock_directory(tmp_path)
