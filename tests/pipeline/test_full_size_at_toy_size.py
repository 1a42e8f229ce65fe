"""The pipelines for GPUs, whole, with their wires and overrides, at toy size. Minutes each."""

from __future__ import annotations

import pytest
from conftest import ROOT, command

from open_r1.pipeline.plan import read_state


@pytest.mark.long
@pytest.mark.parametrize("name", ["r1_qwen2.5_7b", "r1_qwen2.5_32b", "r1_deepseek_v3"])
def test_every_stage_runs(name, tmp_path):
    done = command(
        "train", ROOT / "recipes" / "pipelines" / f"{name}.yaml", "--toy", "--jobs", 2, "--output_dir", tmp_path,
        timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    states = {stage["name"]: stage["state"] for stage in read_state(tmp_path)["stages"]}
    assert set(states.values()) <= {"finished", "cached"} and len(states) >= 25, states
    assert "toy size: the figures mean nothing" in (tmp_path / "report.html").read_text()
