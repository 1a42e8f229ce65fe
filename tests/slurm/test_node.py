"""What a node checks before the command of its job starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.config.loading import resolve_recipe
from open_r1.errors import RecipeError
from open_r1.launch.nodes import Allocation
from open_r1.pipeline import fingerprint
from open_r1.slurm import node
from open_r1.system import files, network


def test_a_stage_is_not_filled_by_another_recipe_than_was_submitted(write_recipe, monkeypatch):
    recipe = str(write_recipe("sft"))
    digest = fingerprint.fingerprint_stage(*resolve_recipe(Path(recipe), {}))["digest"]
    monkeypatch.setenv(fingerprint.DIGEST, digest)
    where = Allocation(Path("start"), 1, 0, 0)
    assert node._check_recipe(where, recipe, []).name == "run"
    with pytest.raises(RecipeError, match="changed since this was submitted; submit it again"):
        node._check_recipe(where, recipe, ["--learning_rate", "0.123"])


def test_a_job_notes_itself_in_the_run_it_is_for(write_recipe, tmp_path, monkeypatch):
    recipe = str(write_recipe("sft"))
    monkeypatch.setenv(network.JOB_LOG, "job.log")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for rank, there in ((1, False), (0, True)):
        where = Allocation(tmp_path / "start", 2, rank, 0)
        node.check_node(where, "train", [recipe, "--processes", "2"])
        assert (tmp_path / "run" / network.JOBS).is_file() == there
    assert files.read_json(tmp_path / "run" / network.JOBS) == {"jobs": [{"id": "12", "log": "job.log"}]}
