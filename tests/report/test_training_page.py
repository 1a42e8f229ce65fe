"""The page of a training: its content, what it must not load, and runs that lack most of it."""

import json
import re
from pathlib import Path

import matplotlib
import pyarrow
import pyarrow.parquet
import pytest
from support.pages import ATTACK, PNG, Page, figure, put, put_metrics, read_page
from support.simulated import evaluation, samples

from open_r1.evaluation.reference.curves import place_run
from open_r1.report import curves, plots, run_report
from open_r1.system import run_files


def training_row(step: int) -> dict:
    share = step / 100
    row = {"step": step, "seconds": 2.0 * step, "loss": 0.01, "reward": 1.5 * share, "kl": None if step == 2 else 0.1}
    row |= {"rewards/accuracy/mean": share, "rewards/accuracy/std": 0.3, "rewards/think_format/mean": 0.5}
    row |= {
        "completions/mean_length": 20.0 + step,
        "verdict/unknown": 0.25 if step == 7 else 0.0,
        "verdict/error": 0.0,
    }
    return row | {"learning_rate": 1e-5, "entropy": float("nan")}


def evaluation_row(step: int, share: float) -> dict:
    return {"step": step, "evaluation/pass@1": share, "evaluation/maj@4": share + 0.1, "evaluation/mean_length": 30.0}


def judged(step: int, share: float, completion: str, **changes) -> dict:
    """An evaluation of a training, with figures that a page is to show."""
    found = evaluation(samples([0.5] * 4, 4), step=step, problems=128)
    sample = {"completion": completion, "tokens": 12, "answer": "7", "verdict": "wrong"}
    figures = {
        "metrics": {"pass@1": figure(share), "maj@4": figure(share + 0.1)},
        "shares": found["shares"] | {"format": figure(1.0, 0.0), "language": figure(None)},
        "tokens": found["tokens"] | {"mean": figure(31.25, 1.0)},
        "examples": [{"prompt": f"three plus four {ATTACK}", "solution": "7", "samples": [sample]}],
    }
    return found | figures | changes


@pytest.fixture
def grpo(tmp_path: Path) -> Path:
    run = tmp_path / "tiny" / "grpo" / "zero"
    rewards = "rewards:\n- {name: think_format, weight: 0.5}\n- {name: accuracy, weight: 1.0}\n"
    put(
        run / "recipe.yaml",
        f"task: grpo\nmax_steps: 60\nseed: 42\n{rewards}evaluation: {{live_rows: 64}}\nnote: '{ATTACK}'\n",
    )
    environment = {"commit": "0123456789abcdef-dirty", "packages": {"trl": "1.16.0"}, "gpus": [], "command": ATTACK}
    put(run / "environment.json", environment)
    put(run / "status.json", {"state": "finished", "seconds": 125.0, "step": 60})
    rows = [evaluation_row(0, 0.123), *map(training_row, range(1, 61)), {"step": 60, "train_runtime": 100.0}]
    put_metrics(run, [*rows, evaluation_row(60, 0.789)])
    put(run / "evaluations" / "before.json", judged(0, 0.123, f"<answer>6</answer> {ATTACK}"))
    put(run / "evaluations" / "after.json", judged(60, 0.789, f"<think>3 + 4</think> {ATTACK}"))
    completion = [{"role": "assistant", "content": f"trained {ATTACK}"}]
    row = {"step": 50, "prompt": [{"role": "user", "content": "1 + 1"}], "completion": completion, "accuracy": None}
    (run / "completions").mkdir()
    table = pyarrow.Table.from_pylist([row | {"verdict": "unknown", "advantage": 0.512}])
    pyarrow.parquet.write_table(table, run / "completions" / "completions_00050.parquet")
    (run / "completions" / "completions_00060.parquet").write_bytes(b"PAR1 cut by a kill")
    return run


def test_samples_without_a_verdict_and_second_opinions_are_shown(grpo: Path):
    rows = [json.loads(line) for line in (grpo / "metrics.jsonl").read_text().splitlines()]
    rows[1] |= {"verdict/reasons": {f"error: the sandbox is gone {ATTACK}": 3, "unknown: no gold answer": 1}}
    rows[2] |= {"verdict/reasons": {"unknown: no gold answer": 5}, "second_opinion/accuracy": 0.125}
    put_metrics(grpo, rows)
    sample = {"step": 2, "completion": f"<think>hm</think> {ATTACK}", "solution": f"7{ATTACK}"}
    judged = {"verdict": "unknown", "reason": "no gold answer"}
    put(grpo / "withheld.jsonl", json.dumps(sample | judged) + "\n")
    told = {"verdict": "correct", "reason": "", "second_opinion": f"wrong: {ATTACK}"}
    put(grpo / "second_opinions.jsonl", json.dumps(sample | told) + "\n")
    page = Page(run_report.write_report(grpo))
    assert page.text.index("6 × unknown: no gold answer") < page.text.index("3 × error: the sandbox is gone")
    assert "Samples without a verdict" in page.text and "open-r1 judge" in page.text
    text = " ".join(page.text.split())
    assert "differed on 12% of those of accuracy" in text and "the second judge: wrong" in text


def test_a_whole_grpo_run(grpo: Path):
    path = run_report.write_report(grpo)
    page = Page(path)
    assert path == grpo / "report.html"
    assert re.search(r"finished.*60 steps.*2 min 5 s.*seed 42.*commit 0123456789-dirty", page.text)
    for shown in (
        "12.3% [10.3, 14.3]",
        "78.9% [76.9, 80.9]",
        "31.2",
        "maj@4",
        "128 held-out problems",
        "temperature 0.6",
        "the first 64 problems",
    ):
        assert shown in page.text
    assert page.text.index("think_format") < page.text.index("rewards/accuracy/mean"), "not in the recipe's order"
    assert "trained" in page.text and "From step 50" in page.text
    assert "at most 25% (step 7)" in page.text
    assert "three plus four" in page.text and "trl" in page.text
    assert page.text.index("Accuracy on held-out problems") < page.text.index("Total reward")
    assert "entropy" not in page.text, "a metric without a finite value has no plot"
    for name in ("accuracy", "length", "rewards", "curves"):
        assert (grpo / "plots" / f"{name}.png").read_bytes()[:4] == PNG
        assert (grpo / "plots" / f"{name}.png").stat().st_size > 10_000
    assert not list(grpo.rglob("*.partial"))


def test_the_page_loads_and_runs_nothing(grpo: Path):
    page = Page(run_report.write_report(grpo))
    assert page.loaded == ["data:,"]
    assert "http:" not in page.source and "https:" not in page.source
    assert "script" not in page.tags
    assert page.text.count(ATTACK) >= 6, "prompt, two completions, a training completion, recipe, environment"
    assert '<span class="tag">&lt;think&gt;</span>' in page.source


def test_every_plot_has_a_description_and_the_colours_of_the_page(grpo: Path):
    page = Page(run_report.write_report(grpo))
    assert page.tags.count("svg") == len(page.alts)
    assert any("maj@4 22.3% at step 0, 88.9% at step 60; pass@1 12.3% at step 0" in alt for alt in page.alts)
    assert "var(--blue)" in page.source and plots.COLOURS["blue"] not in page.source.split("</style>")[1]


def test_writing_twice_gives_the_same_page(grpo: Path):
    first = run_report.write_report(grpo).read_text()
    assert run_report.write_report(grpo).read_text() == first


def test_matplotlib_is_left_as_it_was(grpo: Path):
    with matplotlib.rc_context({"font.size": 17.0, "axes.grid": False, "svg.fonttype": "path"}):
        # Not through `rcParams[...]`, which would choose a backend.
        settings = dict(dict.items(matplotlib.rcParams))
        run_report.write_report(grpo)
        assert dict(dict.items(matplotlib.rcParams)) == settings


def test_an_unfinished_run_whose_last_line_is_cut(tmp_path: Path):
    run = tmp_path / "zero"
    put(run / "recipe.yaml", "task: grpo\nmax_steps: 60\n")
    put(run / "evaluations" / "before.json", judged(0, 0.123, "short"))
    put_metrics(run, [evaluation_row(0, 0.1), training_row(1), training_row(2)], end='{"step": 3, "loss": 0.0')
    page = Page(run_report.write_report(run))
    assert "step 2 of 60" in page.text
    assert "12.3%" in page.text and "not yet after it" in page.text and "not sampled yet" in page.text
    assert "Total reward" in page.text and "Training completions" not in page.text


@pytest.mark.parametrize("recipe", ["", "task: sft\n"])
def test_sft(tmp_path: Path, recipe: str):
    run = tmp_path / "base"
    rows = [
        {"step": s, "seconds": s, "loss": 3.0 / s, "mean_token_accuracy": 0.5, "grad_norm": 1.0} for s in range(1, 9)
    ]
    put_metrics(run, [*rows, {"step": 8, "seconds": 8, "eval_loss": 0.25}])
    if recipe:
        put(run / "recipe.yaml", recipe)
    page = Page(run_report.write_report(run))
    assert page.text.index("Loss") < page.text.index("Token accuracy") < page.text.index("Gradient norm")
    assert any("held out 0.25 at step 8" in alt for alt in page.alts)
    assert [path.name for path in (run / "plots").iterdir()] == ["curves.png"]
    assert "pass@1" not in page.text.split("Record")[0].replace("report", "")


def test_dpo(tmp_path: Path):
    run = tmp_path / "pairs"
    put(run / "recipe.yaml", "task: dpo\n")
    row = {
        "loss": 0.6,
        "rewards/chosen": 0.1,
        "rewards/rejected": -0.2,
        "rewards/accuracies": 0.75,
        "rewards/margins": 0.3,
    }
    put_metrics(run, [{"step": 1, "seconds": 1.0, **row}])
    page = Page(run_report.write_report(run))
    assert page.text.index("Loss") < page.text.index("Preference accuracy")
    assert any("chosen 0.1 at step 1" in alt and "rejected -0.2 at step 1" in alt for alt in page.alts)
    assert "advantages cancel" not in page.text


def test_a_run_that_has_logged_nothing(tmp_path: Path):
    put(tmp_path / "run" / "recipe.yaml", "task: grpo\n")
    assert "No training step has been logged yet." in Page(run_report.write_report(tmp_path / "run")).text
    assert not (tmp_path / "run" / "plots").exists()


def test_a_resumed_step_is_drawn_once_and_smoothing_keeps_a_line():
    rows = [{"step": 1, "x": 5.0}, {"step": 2, "x": 9.0}, {"step": 1, "x": 6.0}, {"step": 3, "x": None}]
    assert run_files.read_series(rows, "x") == {1: 6.0, 2: 9.0}
    line = {step: 2.0 * step for step in range(1, 201)}
    smooth = curves._smooth(line)
    assert smooth[100] == pytest.approx(200.0) and smooth[1] == pytest.approx(7.0)
    assert len(curves._smooth(dict.fromkeys(range(10_000), 1.0))) == curves.POINTS


def test_a_training_beside_a_reference(grpo: Path):
    assert "Beside a reference" not in read_page(grpo)
    curve = {"title": f"Ours {ATTACK}", "source": "five seeds", "steps": 60, "metrics": {}}
    for key, value in (("reward", 1.0), ("completions/mean_length", 40.0)):
        curve["metrics"][key] = {"step": [1, 60], "mean": [value, 2 * value]}
    put(grpo / "curve.yaml", json.dumps(curve))
    put(grpo / "reference.json", place_run(grpo, str(grpo / "curve.yaml")))
    page = Page(run_report.write_report(grpo))
    placed = json.loads((grpo / "reference.json").read_text())
    assert "Beside a reference" in page.text and f"Ours {ATTACK} (five seeds)" in page.line
    for metric in placed["metrics"].values():
        assert metric["verdict"] in page.line
    assert (grpo / "plots" / "reference.png").read_bytes()[:4] == PNG and "script" not in page.tags
