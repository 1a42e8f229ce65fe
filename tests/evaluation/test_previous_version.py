"""Finished runs of an earlier version are still reported, compared and measured.

`previous_version` holds a pipeline as it was written before every verifier had a version of its own (commit b522acf):
an SFT, a GRPO training with its evaluations, and an evaluation of both models, without models, plots and logs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from open_r1 import evaluate
from open_r1.config.loading import load_recipe
from open_r1.errors import RecipeError
from open_r1.evaluation.compare import compare_runs
from open_r1.evaluation.reference import curves
from open_r1.pipeline import claims
from open_r1.report import comparison, run_report
from open_r1.report.pages.pipeline import write_pipeline_page

STORED = Path(__file__).parent / "previous_version"


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch) -> Path:
    """The pipeline's directory, below the working directory as its recipes name it."""
    shutil.copytree(STORED, tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/pipelines/made")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_every_run_has_its_report(pipeline: Path):
    stages = {stage["name"]: pipeline / stage["view"] for stage in read(pipeline / "state.json")["stages"]}
    assert len(stages) == 4
    pages = {name: run_report.write_report(folder).read_text() for name, folder in stages.items()}
    for name in ("base", "zero"):
        assert "12.5%" in pages[f"measured.{name}"], "its pass@1"
    assert "4.2%" in pages["zero"], "pass@1 after the training"
    page = write_pipeline_page(pipeline).read_text()
    assert "Pure RL makes a base model solve more." in page and "All models on sums" in page


def test_the_claims_have_the_marks_and_numbers_that_were_stored(pipeline: Path):
    stored = read(pipeline / "table.json")
    measured = claims.write_claims(pipeline)
    for line in measured["lines"]:
        for show in line["shows"]:
            for reading in show["values"] + show["than_values"]:
                reading["run"] = Path(reading["run"]).relative_to(Path.cwd()).as_posix()
    assert measured == stored and stored["lines"][0]["mark"] == "not clear"


def test_evaluations_by_one_judge_are_compared(pipeline: Path):
    base, zero = (str(pipeline / f"seed=0/measured.{name}") for name in ("base", "zero"))
    compared = compare_runs([base, zero])
    (benchmark,) = compared["benchmarks"]
    for side, run in zip(benchmark["sides"], (base, zero), strict=True):
        stored = read(Path(run) / "summary.json")["benchmarks"]["sums"]["pass@1"]
        assert side["figures"]["pass@1"]["value"] == stored["value"]
    assert "sums: 6 problems, 4 samples of each" in comparison.format_comparison(compared)
    training = pipeline / "seed=0/zero"
    (benchmark,) = compare_runs([f"{training}:before", f"{training}:after"])["benchmarks"]
    assert benchmark["pairs"][0]["differences"]["pass@1"]["value"] == pytest.approx(1 / 24)


def test_a_training_is_placed_beside_stored_curves(pipeline: Path):
    placed = curves.place_run(pipeline / "seed=0/zero", "tiny_r1_zero")
    assert placed["metrics"]["reward"]["points"] == 4 and placed["missing"] == ["evaluation/maj@16"]


def test_beside_a_new_evaluation_it_must_be_judged_again(pipeline: Path):
    base, zero = (pipeline / f"seed=0/measured.{name}" for name in ("base", "zero"))
    before = read(zero / "evaluations/sums.json")
    evaluate.main(load_recipe(zero / "recipe.yaml", ["--rejudge", "--report", "false"]))
    after = read(zero / "evaluations/sums.json")
    assert before["grader"].endswith(" (math-verify 0.9.0)") and after["grader"] != before["grader"]
    assert after | {"grader": before["grader"]} == before, "the verdicts on these sums are the same"
    with pytest.raises(RecipeError, match=r"(?s)version of A covers all verifiers.*--rejudge"):
        compare_runs([str(base), str(zero)])
    evaluate.main(load_recipe(base / "recipe.yaml", ["--rejudge", "--report", "false"]))
    assert compare_runs([str(base), str(zero)])["benchmarks"][0]["differing"] == []
