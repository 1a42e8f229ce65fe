"""A verifier that cannot judge, or breaks in the middle: what a GRPO run makes of it."""

from __future__ import annotations

import json
import sys
import types
import zlib

import pyarrow.parquet
import pytest

from open_r1.errors import RecipeError
from open_r1.launch.local import run_recipe
from open_r1.rewards.verdict import Verdict


@pytest.fixture
def verifier(monkeypatch):
    """Offer a function to recipes as `training_verifier:judged`."""
    module = types.ModuleType("training_verifier")
    monkeypatch.setitem(sys.modules, "training_verifier", module)

    def offer(function):
        module.judged = function
        return [{"name": "training_verifier:judged"}, {"name": "think_format"}]

    return offer


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_unjudged_samples_are_counted_everywhere_and_get_no_advantage(write_recipe, tmp_path, verifier):
    def judged(completion: str, solution: str) -> Verdict:
        drawn = zlib.crc32(completion.encode()) % 2
        return Verdict("correct") if drawn else Verdict("unknown", "cannot tell: drawn")

    run_recipe(str(write_recipe("grpo", rewards=verifier(judged), preflight=False, report=True)), [])
    rows = [row for row in metrics(tmp_path / "run") if "reward" in row]
    shares = [row["verdict/unknown"] for row in rows]
    assert len(shares) == 2 and 0 < sum(shares) < 2
    assert all(row["verdict/error"] == 0 for row in rows)
    assert [row.get("verdict/reasons") for row in rows] == [
        {"unknown: cannot tell": round(8 * share)} if share else None for share in shares
    ]
    withheld = [json.loads(line) for line in (tmp_path / "run" / "withheld.jsonl").read_text().splitlines()]
    assert len(withheld) == sum(round(8 * share) for share in shares) and {r["step"] for r in withheld} <= {1, 2}
    for path in sorted((tmp_path / "run" / "completions").glob("*.parquet")):
        for row in pyarrow.parquet.read_table(path).to_pylist():
            left_out = row["verdict"] == "unknown: cannot tell: drawn"
            scores = (row["judged"], row["think_format"])
            assert all(score is None or score != score for score in scores) == left_out
            assert not left_out or row["advantage"] == 0
    assert "cannot tell" in (tmp_path / "run" / "report.html").read_text()


def test_a_judge_that_breaks_in_the_middle_stops_the_run(write_recipe, tmp_path, verifier):
    calls = []

    def judged(completion: str, solution: str) -> Verdict:
        calls.append(completion)
        return Verdict("correct") if len(calls) <= 16 else Verdict("error", "the sandbox was killed")

    path = write_recipe(
        "grpo", rewards=verifier(judged), preflight=False, max_steps=6, save_steps=1, save_strategy="steps"
    )
    with pytest.raises(RecipeError, match=r"8 of 8 completions.*8 times: the sandbox was killed"):
        run_recipe(str(path), [])
    assert [row["step"] for row in metrics(tmp_path / "run") if "reward" in row] == [1, 2]
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    # The cause is gone: the same command goes on from there.
    verifier(lambda completion, solution: Verdict("correct"))
    run_recipe(str(path), [])
    assert [row["step"] for row in metrics(tmp_path / "run") if "reward" in row] == [1, 2, 3, 4, 5, 6]


def test_mixed_kinds_train_together(write_recipe, tmp_path):
    talk = tmp_path / "talk.jsonl"
    talk.write_text("".join(json.dumps({"prompt": "hello"}) + "\n" for _ in range(16)))
    sources = [
        {"path": "open_r1.tiny.problems:problems", "args": {"rows": 16, "split": "train"}, "kind": "math"},
        {"path": str(talk), "kind": "general"},
    ]
    rewards = [{"name": "accuracy", "kinds": ["math"]}, {"name": "think_format"}]
    run_recipe(str(write_recipe("grpo", datasets=sources, rewards=rewards, max_steps=4, prompt="plain")), [])
    recorded = [
        row
        for path in (tmp_path / "run" / "completions").glob("*.parquet")
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    judged = {"hello" in str(row["prompt"]): [] for row in recorded}
    for row in recorded:
        judged["hello" in str(row["prompt"])].append(row["accuracy"])
    assert all(bool(row["verdict"]) == ("hello" not in str(row["prompt"])) for row in recorded)
    assert all(score in (0.0, 1.0) for score in judged[False])
    assert all(score is None or score != score for score in judged[True])


def test_whole_groups_are_needed_where_they_are_compared(write_recipe, monkeypatch, verifier):
    def judged(completions: list[str], group: list[int]) -> list[float]:
        return [0.0] * len(completions)

    path = write_recipe("grpo", rewards=verifier(judged), per_device_train_batch_size=2, gradient_accumulation_steps=1)
    from open_r1.config.loading import load_recipe

    with pytest.raises(RecipeError, match="compares the 4 completions of a prompt, and a process has only 2"):
        load_recipe(path, [], processes=2)
