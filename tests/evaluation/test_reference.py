"""Published figures beside an evaluation, and a training's curves inside a band or beside a published shape."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from open_r1.errors import RecipeError
from open_r1.evaluation.reference import curves, files, published
from open_r1.report import plots
from open_r1.report.pages import training

# From the papers' tables, not from the files.
FACTS = [
    ("students", "DeepSeek-R1-Distill-Qwen-1.5B", "aime24", "pass@1", 28.9),
    ("students", "DeepSeek-R1-Distill-Qwen-7B", "aime24", "maj@64", 83.3),
    ("students", "DeepSeek-R1-Distill-Qwen-14B", "math500", "pass@1", 93.9),
    ("students", "DeepSeek-R1-Distill-Qwen-32B", "gpqa_diamond", "pass@1", 62.1),
    ("students", "DeepSeek-R1-Distill-Llama-8B", "livecodebench", "pass@1", 39.6),
    ("students", "DeepSeek-R1-Distill-Llama-70B", "codeforces", "rating", 1633),
    ("students", "QwQ-32B-Preview", "aime24", "pass@1", 44.0),
    ("r1_zero", "DeepSeek-R1-Zero", "aime24", "pass@1", 71.0),
    ("r1_zero", "DeepSeek-R1-Zero", "aime24", "pass@1", 77.9),
    ("r1_zero", "DeepSeek-R1-Zero", "gpqa_diamond", "pass@1", 73.3),
    ("r1_zero", "DeepSeek-R1-Zero", "gpqa_diamond", "pass@1", 75.8),
    ("r1_zero", "DeepSeek-R1-Zero", "aime24", "maj@64", 86.7),
    ("r1_zero", "DeepSeek-V3-Base", "aime24", "pass@1", 15.6),
    ("r1_zero", "o1-0912", "codeforces", "rating", 1843),
    ("r1_stages", "DeepSeek-R1-Zero", "simpleqa", "correct", 30.3),
    ("r1_stages", "DeepSeek-R1-Dev1", "ifeval", "prompt_strict", 71.7),
    ("r1_stages", "DeepSeek-R1-Dev2", "aime24", "pass@1", 74.0),
    ("r1_stages", "DeepSeek-R1-Dev3", "codeforces", "rating", 1746),
    ("r1_stages", "DeepSeek-R1", "alpaca_eval", "win_rate", 87.6),
    ("r1", "DeepSeek-R1", "aime24", "pass@64", 90.0),
    ("r1", "DeepSeek-R1", "aime25", "pass@1", 75),
    ("r1", "o1-1217", "gpqa_diamond", "pass@1", 75.7),
    ("r1", "DeepSeek-V3", "livecodebench", "pass@1", 36.2),
    ("r1", "GPT-4o-0513", "aime24", "maj@64", 13.4),
    ("r1", "Claude-3.5-Sonnet-1022", "swe_bench_verified", "resolved", 50.8),
    ("qwen_32b_zero", "Qwen2.5-32B-Zero", "aime24", "pass@1", 47.0),
    ("qwen_32b_zero", "Qwen2.5-32B-Zero", "livecodebench", "pass@1", 40.2),
    ("qwen2_math_7b_zero", "Qwen2-Math-7B-Zero", "aime25", "pass@1", 18.1),
    ("open_r1_students", "DeepSeek-R1-Distill-Qwen-1.5B", "aime24", "pass@1", 30.7),
    ("open_r1_students", "DeepSeek-R1-Distill-Llama-70B", "livecodebench", "pass@1", 55.9),
    ("deepseek_math", "DeepSeekMath-RL 7B", "gsm8k", "pass@1", 88.2),
]
QWEN_7B = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"


def evaluation(name: str = "aime24", k: int = 64, **keys: object) -> dict:
    protocol = {"prompt": "boxed", "k": k, "temperature": 0.6, "top_p": 0.95, "top_k": 0, "max_tokens": 32768}
    pass_1 = {"value": 0.55, "low": 0.41, "high": 0.68, "same_problems": [0.54, 0.56], "problems": 30}
    whole = {"name": name, "model": QWEN_7B, "protocol": protocol, "departures": {}, "metrics": {"pass@1": pass_1}}
    return whole | keys


def test_every_shipped_file_loads_and_names_its_source():
    assert {name for name, *_ in FACTS} | {"r1_zero_curves"} <= set(files.list_references())
    for name in files.list_references():
        assert files.find_reference(name).source
        assert files.find_reference(name) is files.find_reference(name), "read once"


@pytest.mark.parametrize(("file", "model", "benchmark", "metric", "printed"), FACTS)
def test_published_figures(file, model, benchmark, metric, printed):
    same = [f for f in published.list_figures(file) if (f.model, f.benchmark, f.metric) == (model, benchmark, metric)]
    assert printed in [round(figure.value * (1 if metric == "rating" else 100), 6) for figure in same]
    assert all("arXiv" in figure.source or "README of" in figure.source for figure in same)


def test_two_versions_of_a_figure_have_a_source_each():
    both = [f for f in published.list_figures("r1_zero") if (f.benchmark, f.metric, f.model) == AIME_OF_ZERO]
    assert [(f.value, "v1" in f.source, "v2" in f.source) for f in both] == [(0.71, True, False), (0.779, False, True)]


AIME_OF_ZERO = ("aime24", "pass@1", "DeepSeek-R1-Zero")


def test_the_published_curves_are_those_read_off_the_figures():
    stored = files.find_reference("r1_zero_curves").metrics
    for file, columns in (
        ("r1_zero_aime_trajectory_v1_fig2.csv", {"pass_at_1": "evaluation/pass@1", "cons_at_16": "evaluation/maj@16"}),
        ("r1_zero_length_trajectory_v1_fig3.csv", {"mean_response_tokens_smoothed": "completions/mean_length"}),
    ):
        head, *rows = (line.split(",") for line in shared("paper", file).read_text().split())
        for column, key in columns.items():
            assert stored[key].step == [int(row[0]) for row in rows]
            assert stored[key].mean == [float(row[head.index(column)]) for row in rows]


@pytest.mark.parametrize(
    "model", [QWEN_7B, "DeepSeek-R1-Distill-Qwen-7B", "models/deepseek-r1-distill-qwen-7b/", "x/"]
)
def test_a_model_is_found_by_its_name_at_the_hub_or_the_last_part_of_it(model):
    rows = published.compare_published(evaluation(), model=model)
    assert [(row.theirs, row.figure.reference) for row in rows] == (
        [] if model == "x/" else [(0.508, "open_r1_students"), (0.555, "students")]
    )


def test_a_model_nobody_published_has_nothing_beside_it():
    assert published.compare_published(evaluation(model="runs/tiny/grpo/r1_zero/model")) == []
    assert published.compare_published(evaluation(model=None)) == []
    assert published.compare_published(evaluation("tiny")) == []
    assert published.format_published_table([]) == ""


def test_a_figure_that_two_files_repeat_stands_once():
    rows = published.compare_published(evaluation(), model="DeepSeek-R1-Distill-Qwen-32B")
    assert [row.theirs for row in rows] == [0.697, 0.726]


def test_the_same_figure_of_another_protocol_stands_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(FIGURES))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(FIGURES | {"protocol": {"k": 4}}))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(FIGURES | {"source": "a repetition"}))
    assert [row.figure.reference for row in published.compare_published(evaluation(model="m"))] == ["a", "b"]


def test_a_reference_can_be_named_whole_or_by_model():
    assert len({row.figure.model for row in published.compare_published(evaluation(), reference="students")}) == 10
    rows = published.compare_published(evaluation(), reference="r1_zero/DeepSeek-R1-Zero")
    assert [row.theirs for row in rows] == [0.71, 0.779]
    with pytest.raises(RecipeError, match="no model 'o1-mni'; did you mean 'o1-mini'"):
        published.compare_published(evaluation(), reference="students/o1-mni")
    with pytest.raises(RecipeError, match="no reference 'student'; did you mean 'students'"):
        published.compare_published(evaluation(), reference="student")
    with pytest.raises(RecipeError, match="curves of a training"):
        published.compare_published(evaluation(), reference="r1_zero_curves")


def published_row(**keys: object) -> published.Row:
    (row,) = published.compare_published(evaluation(**keys), reference=f"students/{QWEN_7B.split('/')[1]}")
    return row


def with_metric(**figure: object) -> dict:
    return {"metrics": {"pass@1": evaluation()["metrics"]["pass@1"] | figure}}


def test_a_published_figure_may_differ_by_the_noise_of_both_sides():
    row = published_row(**with_metric(value=0.55, same_problems=[0.545, 0.555]))
    assert (row.over, row.explained, row.low, row.high) == ("samples", True, 0.545, 0.555)
    assert row.difference == pytest.approx(-0.005)
    # Their 64 samples are as noisy as ours: 1.4 half widths are within, 1.5 are not.
    assert published_row(**with_metric(value=0.555 - 0.0140, same_problems=[0.531, 0.551])).explained
    assert not published_row(**with_metric(value=0.555 - 0.0150, same_problems=[0.530, 0.550])).explained
    # Beside 4 samples of ours, their 64 hardly count.
    assert published_row(k=4, **with_metric(value=0.555 - 0.0100, same_problems=[0.535, 0.555])).explained
    assert not published_row(k=4, **with_metric(value=0.555 - 0.0110, same_problems=[0.534, 0.554])).explained


def test_a_part_of_the_problems_has_the_interval_over_problems():
    row = published_row(departures={"problems": [30, 10]}, **with_metric(value=0.45, low=0.3, high=0.6))
    assert (row.over, row.explained, row.low, row.high) == ("problems", True, 0.3, 0.6)
    assert row.differs == {"problems": [30, 10]}
    far = published_row(departures={"problems": [30, 10]}, **with_metric(value=0.2, low=0.1, high=0.3))
    assert far.explained is False


def test_one_sample_of_each_problem_says_nothing_of_sampling():
    assert published_row(k=1, **with_metric(same_problems=None)).over == "problems"


def test_rounding_of_what_was_printed_is_no_difference():
    vote = {"value": 26 / 30, "low": 0.7, "high": 0.95, "same_problems": [26 / 30, 26 / 30]}
    (row,) = published.compare_published(evaluation(metrics={"maj@64": vote}), reference="r1_zero/DeepSeek-R1-Zero")
    assert row.theirs == 0.867 and row.explained
    vote = {"value": 25.9 / 30, "low": 0.7, "high": 0.95, "same_problems": [25.9 / 30, 25.9 / 30]}
    (row,) = published.compare_published(evaluation(metrics={"maj@64": vote}), reference="r1_zero/DeepSeek-R1-Zero")
    assert not row.explained


def test_rounding_counts_to_both_sides():
    exact = {"low": 0.4, "high": 0.7}
    assert published_row(**with_metric(value=0.5554, same_problems=[0.5554, 0.5554], **exact)).explained
    assert published_row(**with_metric(value=0.5546, same_problems=[0.5546, 0.5546], **exact)).explained
    assert not published_row(**with_metric(value=0.5556, same_problems=[0.5556, 0.5556], **exact)).explained


def test_without_any_verdict_nothing_is_explained():
    row = published_row(**with_metric(value=None, low=None, high=None, same_problems=None))
    assert (row.ours, row.difference, row.explained) == (None, None, None)
    assert "unknown" in published.format_published_table([row])


def test_the_table_tells_sources_and_what_differs():
    changed = evaluation(k=4)
    changed["protocol"]["temperature"] = 1.0
    rows = published.compare_published(changed)
    assert rows[1].differs == {"temperature": [0.6, 1.0], "k": [64, 4]}
    text = published.format_published_table(rows)
    assert "55.0% [54.0, 56.0]" in text and "50.8%" in text and "+4.2" in text
    assert "[2] arXiv 2501.12948v1, Table 5 (v2, Table 15); aime24 here: temperature 1.0 (published: 0.6), k 4" in text
    (row,) = published.compare_published(evaluation("livecodebench", k=8), reference="students/o1-mini")
    assert "livecodebench: contests of 2024-08 to 2025-01" in published.format_published_table([row])
    assert "here" not in published.format_published_table(
        published.compare_published(evaluation(), reference="r1_zero/DeepSeek-R1-Zero")
    )


# --- the files -------------------------------------------------------------------------------------------------------

FIGURES = {"title": "t", "source": "s", "models": {"m": {"figures": {"aime24": {"pass@1": 50.0}}}}}
CURVES = {
    "title": "t", "source": "s", "steps": 10, "band": {"level": 0.95},
    "metrics": {"evaluation/pass@1": {"step": [0, 10], "mean": [0.1, 0.5], "low": [0.0, 0.4], "high": [0.2, 0.6]}},
}  # fmt: skip


def changed(content: dict, at: str, value: object) -> dict:
    """A copy with another value at `a>b>c`; ... drops the key."""
    content = copy.deepcopy(content)
    *way, last = at.split(">")
    place = content
    for key in way:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


TRACK = "metrics>evaluation/pass@1"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (changed(FIGURES, "sorce", "x"), "sorce: unknown key"),
        (changed(FIGURES, "source", ...), "source: field required"),
        (changed(FIGURES, "protocol", {"temprature": 1.0}), "protocol.temprature: unknown key"),
        (changed(FIGURES, "protocol", {"top_p": 1.5}), "protocol.top_p: .*less than or equal to 1"),
        (changed(FIGURES, "benchmarks", {"aime24": {"k": 0}}), "benchmarks.aime24.k: .*greater than or equal to 1"),
        (changed(FIGURES, "models>m>hubb", "x"), "models.m.hubb: unknown key"),
        (changed(FIGURES, "models>m>figures>aime24", {"pass@0": 50.0}), "models.m.figures.aime24.pass@0"),
        (changed(FIGURES, "models>m>figures>aime24", {"cons@64": 50.0}), "models.m.figures.aime24.cons@64"),
        (
            changed(FIGURES, "models>m>figures>aime24>pass@1", 101),
            "models.m: figures.aime24.pass@1: 101 is not a perc",
        ),
        (changed(FIGURES, "models>m>figures>aime24>pass@1", -1), "-1 is not a percentage"),
        (changed(FIGURES, "models>m>figures>aime24>pass@1", "50"), "models.m.figures.aime24.pass@1: "),
        (changed(FIGURES, "models>m>figures>aime24>pass@1", float("nan")), "models.m.figures.aime24.pass@1: .*finite"),
        (changed(FIGURES, "models>m>figures>aime24>pass@1", [{"value": 5.0}]), "pass@1.0.source: field required"),
        (changed(FIGURES, "models", ...), "a reference has `models`"),
        (changed(CURVES, f"{TRACK}>step", [10, 0]), "metrics.evaluation/pass@1: step: must ascend"),
        (changed(CURVES, f"{TRACK}>step", []), "metrics.evaluation/pass@1.step: "),
        (changed(CURVES, f"{TRACK}>mean", [0.1]), "mean: 1 values for 2 steps"),
        (changed(CURVES, f"{TRACK}>low", ...), "low and high: one is missing"),
        (changed(CURVES, f"{TRACK}>low", [0.0, 0.55]), "step 10: low, mean and high do not ascend"),
        (changed(CURVES, f"{TRACK}>mean", [0.1, float("inf")]), "metrics.evaluation/pass@1.mean.1: .*finite"),
        (changed(CURVES, f"{TRACK}>hihg", [1.0, 1.0]), "metrics.evaluation/pass@1.hihg: unknown key"),
        (changed(CURVES, "band", ...), "low and high go with `band`"),
        (changed(CURVES, "band", {"level": 95}), "band.level: .*less than 1"),
        (changed(CURVES, "steps", 5), "step 10 of a training of 5 steps"),
        (changed(CURVES, "metrics", {}), "metrics: .*at least 1"),
        (
            changed(CURVES, TRACK, {"step": [0], "mean": [14.7], "low": [14.0], "high": [15.0]}),
            "metrics.evaluation/pass@1: a share is between 0 and 1",
        ),
        ([1, 2], "a reference has"),
    ],
)
def test_bad_files_are_refused_with_the_key(content, told, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=told) as refused:
        files.find_reference(str(path))
    assert "mine.yaml" in str(refused.value)


def test_the_files_that_the_bad_ones_were_made_of_load(tmp_path):
    path = tmp_path / "mine.yaml"
    for content in (FIGURES, CURVES):
        path.write_text(yaml.safe_dump(content))
        assert files.find_reference(str(path)).title == "t"
    path.write_text("models: [")
    with pytest.raises(RecipeError, match=r"mine\.yaml is not valid YAML"):
        files.find_reference(str(path))
    with pytest.raises(RecipeError, match=r"no reference 'absent\.yaml'"):
        files.find_reference("absent.yaml")


# --- curves ----------------------------------------------------------------------------------------------------------


def run(folder: Path, series: dict[str, dict[int, float]], seed: int = 0, **recipe: object) -> Path:
    """A finished training with these metrics; values by step."""
    folder.mkdir(parents=True)
    steps = sorted({step for points in series.values() for step in points})
    rows = [{"step": s} | {key: points[s] for key, points in series.items() if s in points} for s in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "cut')
    content = {"task": "grpo", "seed": seed, "output_dir": str(folder), "max_steps": max(steps), "learning_rate": 1e-6}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content | recipe))
    (folder / "status.json").write_text('{"state": "finished"}')
    (folder / "environment.json").write_text('{"commit": "abc"}')
    return folder


STEPS = range(0, 101, 10)
BAND = {
    "title": "banded", "source": "made up", "steps": 100, "band": {"level": 0.95},
    "metrics": {"reward": {"step": [0, 100], "mean": [0.0, 1.0], "low": [-0.1, 0.9], "high": [0.2, 1.2]}},
}  # fmt: skip


@pytest.fixture
def band(tmp_path: Path) -> str:
    path = tmp_path / "band.yaml"
    path.write_text(yaml.safe_dump(BAND))
    return str(path)


def placed(tmp_path: Path, band: str, points: dict[int, float]) -> dict:
    return curves.place_run(run(tmp_path / "run", {"reward": points}), band)["metrics"]["reward"]


def test_a_run_on_the_mean_is_inside_everywhere(tmp_path, band):
    metric = placed(tmp_path, band, {s: s / 100 for s in STEPS})
    assert (metric["points"], metric["inside"], metric["left"]) == (11, 11, None)
    assert metric["distance"]["median"] == pytest.approx(0)
    assert metric["verdict"] == "inside the band at 11 of 11 points"


def test_a_run_that_never_learns_is_below_from_where_it_leaves(tmp_path, band):
    metric = placed(tmp_path, band, dict.fromkeys(STEPS, 0.0))
    assert metric["verdict"] == "below from step 20 on; inside the band at 2 of 11 points"
    assert metric["left"] == {"side": "below", "step": 20, "until": None, "points": 9}
    # The lower half of the band is 0.1 wide.
    assert metric["distance"]["furthest"] == {"step": 100, "distance": pytest.approx(-10)}


def test_distances_are_in_the_half_width_of_their_own_side(tmp_path, band):
    metric = placed(tmp_path, band, {s: s / 100 + 0.15 for s in STEPS})
    assert metric["inside"] == 11 and metric["distance"]["median"] == pytest.approx(0.75)


def test_a_run_that_comes_back(tmp_path, band):
    metric = placed(tmp_path, band, {s: s / 100 + (0.5 if 30 <= s <= 60 else 0) for s in STEPS})
    assert metric["verdict"] == "above from step 30 to 60; inside the band at 7 of 11 points"


def test_two_points_outside_or_points_on_both_sides_are_not_called_leaving(tmp_path, band):
    jumping = {s: s / 100 + (0.5 if s % 20 else -0.5) for s in STEPS}
    metric = placed(tmp_path, band, jumping)
    assert metric["inside"] == 0 and metric["left"] is None
    metric = placed(tmp_path / "twice", band, {s: s / 100 + (0.5 if s in (30, 40) else 0) for s in STEPS})
    assert metric["inside"] == 9 and metric["left"] is None


def test_a_long_curve_has_left_only_after_a_tenth_of_its_points(tmp_path, band):
    def outside(count: int) -> dict[int, float]:
        return {s: s / 100 + (0.5 if 20 <= s < 20 + count else 0) for s in range(100)}

    assert placed(tmp_path / "a", band, outside(9))["left"] is None
    assert placed(tmp_path / "b", band, outside(10))["left"]["step"] == 20


def test_other_steps_and_shorter_runs_are_compared_where_both_are(tmp_path, band):
    metric = placed(tmp_path / "short", band, {s: s / 100 for s in range(3, 50, 7)})
    assert (metric["points"], metric["inside"]) == (7, 7)
    metric = placed(tmp_path / "long", band, {s: s / 100 for s in range(0, 500, 50)})
    assert metric["points"] == 3
    metric = placed(tmp_path / "later", band, {200: 1.0})
    assert metric == {"points": 0, "verdict": "nothing at steps 0 to 100 yet"}


def test_a_band_without_width(tmp_path):
    flat = {"step": [0, 100], "mean": [1.0, 1.0], "low": [1.0, 1.0], "high": [1.0, 1.0]}
    path = tmp_path / "flat.yaml"
    path.write_text(yaml.safe_dump(changed(BAND, "metrics>reward", flat)))
    metric = placed(tmp_path, str(path), {0: 1.0, 50: 0.9, 100: 1.0})
    assert (metric["inside"], metric["points"]) == (2, 3)
    assert metric["distance"] == {"median": None, "furthest": None}
    json.dumps(metric, allow_nan=False)


def test_what_cannot_be_placed(tmp_path, band):
    with pytest.raises(RecipeError, match=r"has no metrics\.jsonl"):
        curves.place_run(tmp_path, band)
    with pytest.raises(RecipeError, match="has logged none of the metrics"):
        curves.place_run(run(tmp_path / "other", {"loss": {1: 2.0}}), band)
    with pytest.raises(RecipeError, match="students holds figures of benchmarks"):
        curves.place_run(tmp_path / "other", "students")


def noisy(rng: np.random.Generator, keys: int = 1, steps: range = range(1, 101)) -> dict[str, dict[int, float]]:
    return {
        f"evaluation/x{i}": dict(zip(steps, rng.normal(size=len(steps)).tolist(), strict=True)) for i in range(keys)
    }


@pytest.mark.parametrize("runs", [3, 5])
def test_a_further_run_lies_inside_the_band_as_often_as_stated(tmp_path, runs):
    """8,000 independent points: 0.95 within 0.01 is four standard errors."""
    rng = np.random.default_rng(runs)
    made = curves.build_reference([run(tmp_path / f"{i}", noisy(rng, 80), seed=i) for i in range(runs)])
    path = curves.write_reference(made, tmp_path / "made.yaml")
    metrics = curves.place_run(run(tmp_path / "new", noisy(rng, 80), seed=99), str(path))["metrics"].values()
    inside, points = (sum(metric[name] for metric in metrics) for name in ("inside", "points"))
    assert points == 8000
    assert inside / points == pytest.approx(0.95, abs=0.01)


def test_making_a_curve_records_what_it_is_made_of(tmp_path):
    values = {0: (0.1, 0.2, 0.3), 10: (0.7, 0.8, 0.9), 20: (1.0, 1.0, 1.0)}
    folders = []
    for i in range(3):
        points = {step: three[i] for step, three in values.items()} | ({15: 0.5} if i else {})
        more = {"evaluation/unknown": {0: 0.0}, "kl": {0: 0.0}, "reward": {0: 5.0, 20: 6.0}}
        folders.append(run(tmp_path / f"r1--seed={i}", {"evaluation/pass@1": points} | more, seed=i))
    made = curves.build_reference(folders)
    assert set(made["metrics"]) == {"evaluation/pass@1", "reward"}
    track = made["metrics"]["evaluation/pass@1"]
    assert track["step"] == [0, 10, 20]
    assert track["mean"] == [0.2, 0.8, 1.0]
    half = 4.30265 * 0.1 * (4 / 3) ** 0.5
    assert (track["low"], track["high"]) == (
        [0.0, pytest.approx(0.8 - half, abs=1e-5), 1.0],
        [pytest.approx(0.2 + half, abs=1e-5), 1.0, 1.0],
    )
    assert [(r["seed"], r["commit"], r["run"].rpartition("/")[2]) for r in made["runs"]][1] == (1, "abc", "r1--seed=1")
    assert made["recipe"] == {"task": "grpo", "max_steps": 20, "learning_rate": 1e-6}
    path = curves.write_reference(made, tmp_path / "new" / "made.yaml")
    assert files.find_reference(str(path)).model_dump(exclude_none=True) == made
    other = run(tmp_path / "other", {"evaluation/pass@1": {0: 0.2, 20: 1.0}}, learning_rate=1e-5)
    found = curves.place_run(other, str(path))
    assert found["differs"] == {"learning_rate": [1e-6, 1e-5]} and found["missing"] == ["reward"]
    assert "recipes differ in learning_rate" in curves.format_placement(found)
    assert found["metrics"]["evaluation/pass@1"]["verdict"] == "inside the band of 3 seeds at 2 of 2 points"
    with pytest.raises(RecipeError, match=r"--output made\.json: a reference is a \.yaml file"):
        curves.write_reference(made, "made.json")


def test_a_long_curve_is_thinned_with_its_last_step(tmp_path):
    rng = np.random.default_rng(0)
    long = [run(tmp_path / f"{i}", noisy(rng, 1, range(1, 1235)), seed=i) for i in range(3)]
    steps = curves.build_reference(long)["metrics"]["evaluation/x0"]["step"]
    assert len(steps) <= curves.POINTS + 1 and steps[0] == 1 and steps[-1] == 1234


def test_runs_that_make_no_band(tmp_path):
    rng = np.random.default_rng(0)
    one, two, three = (run(tmp_path / f"{i}", noisy(rng), seed=i) for i in range(3))
    with pytest.raises(RecipeError, match="3 or more runs"):
        curves.build_reference([one, two])
    with pytest.raises(RecipeError, match=r"have the same seed \(1\)"):
        curves.build_reference([one, two, run(tmp_path / "again", noisy(rng), seed=1)])
    with pytest.raises(RecipeError, match=r"differ in more than the seed: learning_rate is 0\.1 and 1e-06"):
        curves.build_reference([one, two, run(tmp_path / "faster", noisy(rng), seed=5, learning_rate=0.1)])
    later = run(tmp_path / "later", {"evaluation/x0": {5000: 1.0}}, seed=6, max_steps=100)
    with pytest.raises(RecipeError, match="never logged at one step by all"):
        curves.build_reference([one, two, later])
    with pytest.raises(RecipeError, match="none of these in common: evaluation"):
        curves.build_reference([one, two, run(tmp_path / "sft", {"loss": {1: 2.0, 100: 1.0}}, seed=8)])
    (three / "status.json").write_text('{"state": "interrupted"}')
    with pytest.raises(RecipeError, match=r"2 is not finished \(status: interrupted\)"):
        curves.build_reference([one, two, three])


@given(st.lists(st.floats(0, 1), min_size=3, max_size=6))
def test_any_shares_make_a_band_that_the_format_accepts(values):
    series = [{0: value} for value in values]
    track = curves._build_track("evaluation/pass@1", series)
    content = {
        "title": "t",
        "source": "s",
        "steps": 1,
        "band": {"level": 0.95},
        "metrics": {"evaluation/pass@1": track},
    }
    stored = files.Curves.model_validate(content).metrics["evaluation/pass@1"]
    assert curves._place_in_band({0: float(np.mean(values))}, stored, "")["inside"]


# --- a published curve, which has no band ----------------------------------------------------------------------------


def shape(tmp_path: Path, points: dict[int, float], **recipe: object) -> dict:
    folder = run(tmp_path / "run", {"evaluation/pass@1": points}, **recipe)
    return curves.place_run(folder, "r1_zero_curves")["metrics"]["evaluation/pass@1"]


def test_a_published_curve_is_compared_by_shape(tmp_path):
    stored = files.find_reference("r1_zero_curves").metrics["evaluation/pass@1"]
    same = {step // 100: value / 5 for step, value in zip(stored.step, stored.mean, strict=True)}
    metric = shape(tmp_path, same)
    assert metric["direction"] == ["rises", "rises"] and metric["rank_correlation"] == pytest.approx(1)
    assert metric["half_way"][0] == pytest.approx(metric["half_way"][1])
    assert metric["verdict"].startswith("rises, as theirs") and "inside" not in metric["verdict"]
    falling = {step: 1 - value for step, value in same.items()}
    metric = shape(tmp_path / "falling", falling)
    assert metric["verdict"].startswith("falls, theirs rises") and metric["rank_correlation"] == pytest.approx(-1)
    assert metric["half_way"][0] == pytest.approx(metric["half_way"][1])
    flat = shape(tmp_path / "flat", dict.fromkeys(same, 0.3))
    assert flat["verdict"] == "flat, theirs rises" and flat["rank_correlation"] is None


def test_a_run_under_way_is_compared_with_as_much_of_the_published_one(tmp_path):
    metric = shape(tmp_path, {0: 0.1, 10: 0.2, 20: 0.3, 30: 0.35, 40: 0.4}, max_steps=100)
    # Of the published curve, what lies in the first 40% of its steps: it rises there to 0.51 from 0.16.
    assert metric["half_way"][1] < 0.2 and metric["points"] == 3
    early = shape(tmp_path / "early", {0: 0.1, 1: 0.1}, max_steps=1000)
    assert early["verdict"] == "too early to tell (0% of its steps done)"


def test_only_shape_and_direction_are_told_of_it(tmp_path):
    folder = run(tmp_path / "run", {"evaluation/pass@1": dict.fromkeys(STEPS, 0.5)})
    text = curves.format_placement(curves.place_run(folder, "r1_zero_curves"))
    assert "compare only shape and direction" in text and "Figures 2 and 3" in text
    assert "not logged by this run: evaluation/maj@16, completions/mean_length" in text


# --- the report ------------------------------------------------------------------------------------------------------


def test_plots_of_a_run_over_a_band_come_from_the_run_directory_alone(tmp_path, band):
    folder = run(tmp_path / "run", {"reward": {s: s / 100 for s in STEPS}})
    assert training.plot_reference(folder) == []
    written = curves.save_placement(curves.place_run(folder, band), folder)
    assert written == folder / "reference.json"
    Path(band).unlink()
    (plot,) = training.plot_reference(folder)
    stored, own = plot.lines
    assert stored.band == ({0: -0.1, 100: 0.9}, {0: 0.2, 100: 1.2}) and own.points[50] == 0.5
    assert (plot.metric, plot.last) == ("reward", 100)
    assert "this run 0 at step 0, 1 at step 100" in plot.describe()
    assert "<svg" in plots.render_svg(plot)


def test_a_published_curve_is_drawn_to_the_scale_of_the_run(tmp_path):
    folder = run(tmp_path / "run", {"completions/mean_length": {s: 10 + s / 10 for s in STEPS}})
    (plot,) = training.plot_reference(folder, "r1_zero_curves")
    laid = plot.lines[0]
    assert (min(laid.points.values()), max(laid.points.values())) == (pytest.approx(10), pytest.approx(20))
    assert max(laid.points) == 100 and laid.band is None and laid.label == "DeepSeek-R1-Zero, rescaled"
    assert plot.unit == "tokens"


def test_a_band_reaches_into_the_plot(tmp_path):
    line = plots.Line("", {0: 1.0, 1: 1.0}, band=({0: 0.5, 1: 0.5}, {0: 3.0, 1: 3.0}))
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    plots.Plot("t", "reward", "reward", [line], last=1).draw(ax)
    assert ax.get_ylim()[1] >= 3 and len(ax.collections) == 1


def test_a_curve_that_jumps_over_its_band_on_both_sides_is_not_called_normal(tmp_path):
    steps = list(range(1, 41))
    rows = [{"step": step, "reward": 1.0 + (0.5 if step % 2 else -0.5)} for step in steps]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    track = {"step": [1, 40], "mean": [1.0, 1.0], "low": [0.9, 0.9], "high": [1.1, 1.1]}
    content = {"title": "T", "source": "s", "steps": 40, "band": {"level": 0.95}, "metrics": {"reward": track}}
    (tmp_path / "curve.yaml").write_text(yaml.safe_dump(content))
    placed = curves.place_run(tmp_path, str(tmp_path / "curve.yaml"))
    assert placed["verdict"].startswith("often outside the band: reward; 0 of 40 points inside")
