"""The whole miniature, as `make train` runs it: what it must show, for three seeds. Minutes each."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT, command


@pytest.mark.long
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_reasoning_emerges_from_reinforcement_learning(seed, tmp_path):
    recipe = ROOT / "recipes" / "tiny" / "grpo" / "r1_zero.yaml"
    base = command(
        "train", ROOT / "recipes/tiny/sft/base.yaml", "--seed", seed, "--output_dir", tmp_path / "base", timeout=900
    )
    assert base.returncode == 0, base.stderr
    words = ["--seed", seed, "--model_name_or_path", tmp_path / "base" / "model", "--output_dir", tmp_path / "zero"]
    done = command("train", recipe, *words, timeout=900)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "zero" / "summary.json").read_text())
    before, after = ({name: figure["value"] for name, figure in summary[side].items()} for side in ("before", "after"))
    assert before["pass@1"] < 0.25 and after["pass@1"] >= 0.85
    assert before["maj@16"] > before["pass@1"] and after["maj@16"] >= after["pass@1"]
    assert after["mean_length"] >= 2 * before["mean_length"]
    assert after["language"] < 0.9, "accuracy alone does not unmix the languages"
    rows = [json.loads(line) for line in (tmp_path / "zero" / "metrics.jsonl").read_text().splitlines()]
    live = [row for row in rows if "evaluation/pass@1" in row]
    # Length rises with accuracy: at half of the way up in accuracy it is well above where it began.
    half = (before["pass@1"] + after["pass@1"]) / 2
    risen = next(row for row in live if row["evaluation/pass@1"] >= half)
    assert risen["evaluation/mean_length"] > 1.4 * before["mean_length"]
    # Voting adds while there is room: every evaluation below 0.9.
    assert all(row["evaluation/maj@16"] > row["evaluation/pass@1"] for row in live if row["evaluation/pass@1"] < 0.9)
