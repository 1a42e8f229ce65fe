"""The page of an evaluation, and tables of figures for a terminal."""

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from support.pages import ATTACK, Page, figure, put, put_rows, read_page
from support.simulated import evaluation, put_evaluation, samples

from open_r1.evaluation import tables
from open_r1.evaluation.reference import published
from open_r1.report import run_report
from open_r1.report.pages import evaluation as pages_evaluation
from open_r1.report.pages.evaluation import BINS, _count_lengths


def test_table():
    before = {
        "pass@1": figure(0.123, 0.01),
        "maj@16": figure(0.2),
        "mean_length": figure(14.25, 0.5),
        "format": figure(0.5),
        "language": None,
    }
    after = {"pass@1": figure(0.6), "maj@16": figure(1.0, 0.0), "mean_length": figure(1114.0, 100)}
    after |= {"format": {"value": 0.996, "low": None, "high": None}, "language": figure(None)}
    assert run_report.format_before_after(before, after).split("\n") == [
        "                      before                 after",
        "pass@1                 12.3% [11.3, 13.3]    60.0% [58.0, 62.0]",
        "maj@16                 20.0% [18.0, 22.0]   100.0% [100.0, 100.0]",
        "mean length (tokens)    14.2 [13.8, 14.8]  1,114.0 [1,014.0, 1,214.0]",
        "format                 50.0% [48.0, 52.0]    99.6%",
        "language                   -                     -",
    ]


@pytest.mark.parametrize(
    ("value", "low", "high", "told"),
    [
        (0.031, 0.004, 0.059, "+3.1 [0.4, 5.9]"),
        (-0.031, -0.059, 0.004, "-3.1 [-5.9, 0.4]"),
        (-0.0001, -0.0002, 0.0, "+0.0 [0.0, 0.0]"),
        (0.5, None, None, "+50.0"),
        (None, None, None, "-"),
    ],
)
def test_a_difference_in_points(value: float | None, low: float | None, high: float | None, told: str):
    assert tables.join_cell(tables.format_points({"value": value, "low": low, "high": high})) == told


def format_table(**changes) -> str:
    return run_report.format_evaluations([evaluation(samples([0.0, 1.0, 0.5], 4), **changes)])


def test_a_table_of_evaluations_has_one_line_each_and_departures_below():
    high = evaluation(
        samples([1.0] * 30, 16), title="AIME 2024", departures={"k": [64, 16], "temperature": [0.6, 1.0]}
    )
    low = evaluation(samples([0.0] * 1500, 1), names=("pass@1",), title=None, name="mine")
    lines = run_report.format_evaluations([high, low]).split("\n")
    assert lines[0].split() == ["benchmark", "problems", "k", "tokens", "truncated"]
    assert lines[1].startswith("AIME 2024        30  16  pass@1  100.0% [8") and "maj@16 100.0% [8" in lines[1]
    assert lines[2] == "    departs from its protocol: k 16 instead of 64, temperature 1 instead of 0.6"
    assert lines[3].startswith("mine          1,500   1  pass@1    0.0% [0.0, ") and len(lines) == 4


def test_a_table_of_evaluations_tells_what_could_not_be_judged():
    half = evaluation(samples([1.0] * 200, 4, doubtful=0.5))
    line, shares, bounds = run_report.format_evaluations([half]).split("\n")[1:]
    unknown = half["shares"]["unknown"]["value"]
    assert 0.4 < unknown < 0.6 and "100.0% [" in line
    assert (
        shares
        == f"    unknown {100 * unknown:.1f}% of the samples: {half['reasons']['no gold answer']} × no gold answer"
    )
    assert bounds.startswith(f"    pass@1 between {100 * (1 - unknown):.1f}% and 100.0%, maj@4 between ")
    none = evaluation(samples([1.0] * 3, 4, verdict="error", reason="the sandbox is gone"))
    line, shares, bounds = run_report.format_evaluations([none]).split("\n")[1:]
    assert line.split()[:6] == ["Made", "up", "3", "4", "pass@1", "-"] and line.endswith("maj@4 -")
    assert shares == "    error 100.0% of the samples: 12 × the sandbox is gone"
    assert bounds == "    no sample could be judged, so there is no figure"
    assert "of the samples" not in format_table() and "departs" not in format_table()


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (["boxed", "chat"], "prompt chat instead of boxed"),
        ([None, "Think\n  first."], "prompt Think first. instead of none"),
        ([0.6, 1], "prompt 1 instead of 0.6"),
        (["x", "long " * 50], "prompt long long long long long long long long… instead of x"),
    ],
)
def test_a_departure_in_words(pair: list, told: str):
    assert format_table(departures={"prompt": pair}).endswith(f"    departs from its protocol: {told}")


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """A finished evaluation of two benchmarks, one of which the paper has figures for."""
    run = tmp_path / "small" / "evaluate" / "paper"
    put(run / "recipe.yaml", "task: evaluate\nseed: 5\nmodel_name_or_path: somewhere/ours\n")
    put(run / "status.json", {"state": "finished", "seconds": 61.0})
    aime = samples([0.0, 0.25, 0.5, 1.0] * 5, 8, doubtful=0.1)
    code = samples([1.0] * 13, 2, reason=f"broken {ATTACK}", verdict="error", answer=None, vote=None)
    departed = {"departures": {"k": [64, 8], "problems": [30, 20]}, "title": "AIME 2024", "name": "aime24"}
    put_evaluation(run, evaluation(aime, ("pass@1", "maj@k", "pass@4"), model="ours/R1-Zero", **departed))
    put_evaluation(run, evaluation(code, ("pass@1",), name="code", title=f"Code {ATTACK}"))
    rows = [row | {"benchmark": "aime24"} for judged_K in aime for row in judged_K]
    put_rows(run / "judged" / "train-00000-of-00001.parquet", rows)
    return run


def test_an_evaluation(evaluated: Path):
    found = json.loads((evaluated / "evaluations" / "aime24.json").read_text())
    page = Page(run_report.write_report(evaluated))
    text = page.line
    assert "finished · 1 min 1 s · model ours/R1-Zero · engine transformers · seed 5" in text
    value, low, high = (100 * found["metrics"]["pass@1"][key] for key in ("value", "low", "high"))
    assert f"AIME 2024 20 8 pass@1 {value:.1f}% [{low:.1f}, {high:.1f}] maj@8" in text
    assert "Departs from its protocol: k 8 instead of 64, problems 20 instead of 30" in text
    assert "had they all been wrong or all right" in text and "no sample could be judged" in text
    assert f"26 × broken {ATTACK}" in text and "script" not in page.tags
    drawn = [alt.split(":")[0] for alt in page.alts]
    assert drawn == ["Score by number of samples", "Pass rate of the problems", "Length of the completions"]
    counted = sum(row["finish_reason"] != "length" for row in judged_rows(evaluated))
    assert page.alts[2].endswith(f"ended by itself {counted}, truncated {160 - counted}.")
    assert {path.name for path in (evaluated / "plots").iterdir()} == {
        "aime24_samples.png", "aime24_pass_rates.png", "aime24_lengths.png",
    }  # fmt: skip
    assert "✓ correct" in text and "✗ wrong" in text and "I say right" in text


def judged_rows(run: Path) -> list[dict]:
    return pyarrow.parquet.read_table(run / "judged" / "train-00000-of-00001.parquet").to_pylist()


def test_problems_of_an_evaluation_are_listed_from_the_least_solved(evaluated: Path):
    text = read_page(evaluated)
    problems = re.findall(r"made-(\d+) \1 ([\d.]+)%", text)
    rates = [float(rate) for _, rate in problems]
    assert len(problems) == 20 and rates == sorted(rates) and rates[0] == 0.0 and rates[-1] == 100.0
    assert "made-0 0 - 0 0" in text, "one without a verdict has no rate"


def test_an_evaluation_beside_published_figures(evaluated: Path):
    assert "Beside published figures" not in read_page(evaluated), "nothing was published of this model"
    recipe = (evaluated / "recipe.yaml").read_text()
    put(evaluated / "recipe.yaml", f"{recipe}reference: students\n")
    text = read_page(evaluated)
    name, theirs = "DeepSeek-R1-Distill-Qwen-7B", "55.5%"
    row = next(
        row
        for row in published.compare_published(found_in(evaluated, "aime24"), reference="students")
        if row.figure.model == name
    )
    assert f"{theirs} {100 * row.difference:+.1f} {published.describe_difference(row)} {name}" in text
    assert row.figure.source in text and published.describe_departures(row) in text


def found_in(run: Path, name: str) -> dict:
    return json.loads((run / "evaluations" / f"{name}.json").read_text())


def test_an_evaluation_under_way(tmp_path: Path):
    put(tmp_path / "recipe.yaml", "task: evaluate\nmodel_name_or_path: ours\n")
    put(tmp_path / "status.json", {"state": "running", "seconds": 12.0})
    put_rows(tmp_path / "data" / "train-00004-of-00012.parquet", [{"prompt": "p"}])
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "train-00004-of-00012.parquet").write_bytes(b"PAR1 cut by a kill")
    text = read_page(tmp_path)
    assert "running · 1 of 12 files sampled · 1 of 12 files judged · 12 s · model ours" in text
    assert "Nothing has been measured yet" in text
    put_evaluation(tmp_path, evaluation(samples([0.5], 1), ("pass@1",)))
    text = read_page(tmp_path)
    assert "Nothing has been measured" not in text and "Made up 1 1 pass@1" in text


def test_a_long_table_of_problems_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages_evaluation, "PROBLEMS", 5)
    put(tmp_path / "recipe.yaml", "task: evaluate\n")
    put_evaluation(tmp_path, evaluation(samples([1.0] * 12, 2)))
    text = read_page(tmp_path)
    assert len(re.findall(r"made-\d+ \d+ 100.0%", text)) == 5 and "and 7 more in evaluations/made.json" in text


def test_lengths_count_every_completion_once(tmp_path: Path):
    rows = [{"benchmark": name, "tokens": tokens, "finish_reason": reason} for name, tokens, reason in (
        ("a", 0, "stop"), ("a", 1, "stop"), ("a", 700, "length"), ("a", 9, "refused"), ("b", 3, "stop"),
    )]  # fmt: skip
    put_rows(tmp_path / "train-00000-of-00001.parquet", rows)
    found = _count_lengths(tmp_path)
    assert sum(found["a"]["counts"]) == 3 and sum(found["a"]["truncated"]) == 1 and sum(found["b"]["counts"]) == 1
    assert len(found["a"]["counts"]) <= BINS and found["a"]["edges"][-1] >= 700
