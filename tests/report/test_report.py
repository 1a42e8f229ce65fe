"""The page of a run: what it shows, what it must not do, and runs that lack most of it."""

import html.parser
import json
import re
from pathlib import Path

import matplotlib
import pyarrow
import pyarrow.parquet
import pytest
from support.simulated import evaluation, put_evaluation, samples

from open_r1.curation import funnel
from open_r1.errors import RecipeError
from open_r1.evaluation import tables
from open_r1.evaluation.reference import published
from open_r1.evaluation.reference.curves import place_run
from open_r1.report import curves, plots, run_report
from open_r1.report.pages import evaluation as pages_evaluation
from open_r1.report.pages.data import EXAMPLES, REASONS
from open_r1.report.pages.evaluation import BINS, _count_lengths
from open_r1.system import run_files

ATTACK = "<script>alert(1)</script>"
PNG = b"\x89PNG"


class Page(html.parser.HTMLParser):
    """A page's tags, its text, and everything that a browser would load for it."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.pieces: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") and not value.startswith("#"):
                self.loaded.append(value)
            if tag == "svg" and name == "aria-label":
                self.alts.append(value)

    def handle_data(self, data):
        self.text += data
        self.pieces += data.split()

    @property
    def line(self) -> str:
        """The text as one line, a space between any two elements."""
        return " ".join(self.pieces)


def put(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def put_metrics(run: Path, rows: list[dict], end: str = "") -> None:
    put(run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows) + end)


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


def figure(value: float | None, half: float = 0.02) -> dict:
    low, high = (None, None) if value is None else (value - half, value + half)
    return {"value": value, "low": low, "high": high}


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


def test_every_plot_is_told_in_words_and_themed(grpo: Path):
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


def test_a_directory_that_is_no_run(tmp_path: Path):
    with pytest.raises(RecipeError, match="is not a run directory"):
        run_report.write_report(tmp_path)


def test_a_resumed_step_is_drawn_once_and_smoothing_keeps_a_line():
    rows = [{"step": 1, "x": 5.0}, {"step": 2, "x": 9.0}, {"step": 1, "x": 6.0}, {"step": 3, "x": None}]
    assert run_files.read_series(rows, "x") == {1: 6.0, 2: 9.0}
    line = {step: 2.0 * step for step in range(1, 201)}
    smooth = curves._smooth(line)
    assert smooth[100] == pytest.approx(200.0) and smooth[1] == pytest.approx(7.0)
    assert len(curves._smooth(dict.fromkeys(range(10_000), 1.0))) == curves.POINTS


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


def put_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def shown(run: Path) -> str:
    return Page(run_report.write_report(run)).line


SAMPLED = {
    "prompts": 30_000,
    "completions": 120_000,
    "tokens": 4_567_890,
    "tokens_per_second": 1234.5,
    "seconds": 3700.0,
    "finish_reasons": {"stop": 119_000, "length": 900, "refused": 100},
    "refused": {"the prompt is longer than the model's window": 60, f"the server says {ATTACK}": 40},
    "length_histogram": {"edges": [0.0, 16.0, 32.0], "counts": [100_000, 19_900], "truncated": [0, 900]},
    "model": "tiny-model",
    "engine": "vllm",
    "samples": [
        {
            "prompt": f"求和 {ATTACK}",
            "completion": f"<think>一</think> {ATTACK}",
            "tokens": 7,
            "finish_reason": "stop",
        },
        {"prompt": "refused one", "completion": None, "tokens": 0, "finish_reason": "refused"},
    ],
}


@pytest.fixture
def sampling(tmp_path: Path) -> Path:
    run = tmp_path / "tiny" / "sample" / "reasoning"
    put(run / "recipe.yaml", "task: sample\nseed: 3\nengine: {name: vllm}\nmodel_name_or_path: base\n")
    put(run / "status.json", {"state": "finished", "seconds": 3700.0})
    put(run / "summary.json", SAMPLED)
    return run


def test_a_finished_sampling(sampling: Path):
    page = Page(run_report.write_report(sampling))
    text = page.line
    assert "finished · 30,000 prompts · 120,000 completions · 4,567,890 tokens · 1,234 tokens per second" in text
    assert "1 h 1 min · engine vllm · model tiny-model · seed 3" in text
    assert "truncated 900 0.8%" in text and "refused: the prompt is longer than the model's window 60 <0.1%" in text
    assert page.alts == ["Length of the completions: completions by tokens; ended by itself 119,000, truncated 900."]
    assert (sampling / "plots" / "lengths.png").read_bytes()[:4] == PNG
    assert page.text.count(ATTACK) == 3 and "script" not in page.tags, "a reason, a prompt, its completion"
    assert "no completion" in text and "No training step" not in text


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ({"tokens": 1}, "4,567,890 tokens", "· 1 tokens ·"),
        ({"finish_reasons": {"stop": 1, "length": 3}, "refused": {}}, "truncated 900", "truncated 3 75.0%"),
        ({"tokens_per_second": None}, "1,234 tokens per second", "4,567,890 tokens · 1 h"),
    ],
)
def test_figures_of_a_sampling_are_those_of_its_summary(sampling: Path, change: dict, before: str, after: str):
    first = shown(sampling)
    assert before in first and after not in first
    put(sampling / "summary.json", SAMPLED | change)
    second = shown(sampling)
    assert after in second and before not in second


def test_a_sampling_under_way_shows_what_its_files_hold(sampling: Path):
    (sampling / "summary.json").unlink()
    put(sampling / "status.json", {"state": "interrupted", "seconds": 61})
    lines = [{"shard": shard, "completions": 4, "tokens": 50} for shard in (1, 2, 2)]  # 2 was made again after a crash
    put(sampling / "shards.jsonl", "".join(json.dumps(line) + "\n" for line in lines) + '{"shard": 3, "compl')
    put(sampling / "data" / "train-00000-of-00009.parquet", "PAR1 cut by a crash")
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "two and two"}]
    rows = [{"prompt": asked, "completion": f"{ATTACK} sample {k}", "sample": k, "refused": None} for k in range(4)]
    put_rows(sampling / "data" / "train-00001-of-00009.parquet", rows)
    text = shown(sampling)
    assert "interrupted · 8 completions · 100 tokens · 2 of 9 files · 1 min 1 s · engine vllm · model base" in text
    assert "[system] be brief [user] two and two" in text and "Not all of them are there yet" in text
    assert f"{ATTACK} sample 0" in text and "sample 1" not in text, "one completion of each prompt"


@pytest.mark.parametrize("task", ["sample", "select", "mix"])
def test_a_data_task_that_has_just_begun(tmp_path: Path, task: str):
    run = tmp_path / task
    put(run / "recipe.yaml", f"task: {task}\n")
    text = shown(run)
    assert "Recipe" in text and not (run / "plots").exists()
    for section in ("Training", "Rejected", "Some of the", "Contamination"):
        assert section not in text


def selected(run: Path, **reasons_by_step: list[str | None]) -> Path:
    """The run directory of a selection from eight samples of two prompts; each step has a reason for each sample."""
    steps = ["sampled", "judged", *reasons_by_step, "selected"]
    counts = funnel.Funnel(steps, examples=5)
    rows = [
        {"prompt": f"三加四 {ATTACK}", "completion": f"{i} {ATTACK}" if i else None, "verdict": verdict, "sample": i}
        | {"pass_rate": rate, "finish_reason": "length" if i == 2 else "stop", "scores": {"accuracy": 0.25}}
        for i, (verdict, rate) in enumerate([("correct", 1.0)] * 4 + [("wrong", 0.5), ("unknown", 0.5)] * 2)
    ]
    left = rows
    counts.saw(rows[:4])
    counts.saw(rows[4:])
    for step in ("sampled", "judged"):
        counts.passed(step, left, [None] * 8)
    for step, reasons in reasons_by_step.items():
        left = counts.passed(step, left, reasons[: len(left)])
    counts.passed("selected", left, [None] * len(left))
    put(run / "recipe.yaml", "task: select\n")
    put(run / "funnel.json", counts.as_json("messages", {"never": 0, "0-1": 1, "always": 1}))
    put(run / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in counts.rejected()))
    return run


def test_a_selection(tmp_path: Path):
    language = ["mixed languages", None, None, None, "mixed languages", f"none {ATTACK}", "mixed languages", None]
    run = selected(tmp_path / "reasoning", one_language=language, best_k=[None, None, "not among the best 2", None])
    answer = [{"role": "user", "content": "two?"}, {"role": "assistant", "content": f"kept {ATTACK}"}]
    put_rows(run / "data" / "train-00000-of-00001.parquet", [{"messages": answer, "verdict": "correct"}])
    page = Page(run_report.write_report(run))
    text = page.line
    assert "3 of 8 samples · 1 of 1 prompts" in text
    assert "one_language 4 4 50.0% 1 3 × mixed languages 1 × none" in text
    assert "best_k 3 1 25.0%" in text
    assert any("one_language 4 kept, 4 dropped (50.0%); best_k 3 kept, 1 dropped (25.0%)" in a for a in page.alts)
    assert any("sometimes 1, never or always 1" in alt for alt in page.alts)
    assert "unknown: 2 samples (25.0%), which count neither as right nor as wrong." in text
    assert "wrong 2 25.0%" in text and "1 of the 8 samples whose end is known were truncated (12%)" in text
    assert "0-1 1 50.0%" in text, "the curriculum"
    rejected = page.source.split("<h2>Rejected")[1].split("</section>")[0]
    assert rejected.count("<details>") == 3 and rejected.count("<article>") == 5
    assert rejected.index("3 × mixed languages") < rejected.index("1 × none") < rejected.index("best_k")
    assert "no completion" in rejected and "accuracy 0.25" in rejected and "三加四" in rejected
    assert page.text.count(ATTACK) == 2 + 5 + 4 + 1, "a reason twice, prompts, completions, what was kept"
    assert "script" not in page.tags and "two?" in text
    for name in ("funnel", "pass_rates"):
        assert (run / "plots" / f"{name}.png").read_bytes()[:4] == PNG


def test_a_selection_under_way(tmp_path: Path):
    put(tmp_path / "recipe.yaml", "task: select\n")
    put(tmp_path / "status.json", {"state": "running", "seconds": 12.0})
    put_rows(tmp_path / "judged" / "train-00004-of-00012.parquet", [{"prompt": "p"}])
    text = shown(tmp_path)
    assert "running · 1 of 12 judged files · 12 s" in text and "The funnel is written when the selection ends" in text


def test_figures_of_a_selection_are_those_of_its_funnel(tmp_path: Path):
    run = selected(tmp_path / "reasoning", correct=["wrong", None, None, None, None, None, None, None])
    told = json.loads((run / "funnel.json").read_text())
    assert "correct 7 1 12.5% 1 1 × wrong" in shown(run)
    told["steps"][2] |= {"kept": 5_000_000, "dropped": 1, "reasons": {"wrong": 1}, "prompts": 77}
    put(run / "funnel.json", told)
    assert "correct 5,000,000 1 <0.1% 77 1 × wrong" in shown(run)


def test_a_selection_that_keeps_nothing_says_which_step_took_the_last(tmp_path: Path):
    run = selected(tmp_path / "emptied", first=[None] * 8, 一种语言=[f"mixed {ATTACK}"] * 8, later=[])
    text = shown(run)
    assert f"The step 一种语言 dropped the last 8 samples, most of them for this reason: mixed {ATTACK}" in text
    assert "later 0 0 - 0" in text and "0 of 8 samples" in text


def test_of_many_reasons_the_most_frequent_are_shown_with_a_few_samples_each(tmp_path: Path):
    reasons = {f"reason {i:02}": 100 - i for i in range(50)}
    step = {"name": "judge", "kept": 0, "dropped": sum(reasons.values()), "prompts": 0, "reasons": reasons}
    put(tmp_path / "run" / "recipe.yaml", "task: select\n")
    put(tmp_path / "run" / "funnel.json", {"steps": [step]})
    rows = [
        {"step": "judge", "reason": reason, "prompt": "p", "completion": "c"} for reason in reasons for _ in "12345"
    ]
    put(tmp_path / "run" / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    page = Page(run_report.write_report(tmp_path / "run"))
    assert page.tags.count("article") == REASONS * EXAMPLES
    assert f"and {50 - REASONS} rarer reasons" in page.text
    assert f"{sum(list(reasons.values())[3:]):,} × for other reasons" in page.text


MIXED = {
    "unit": "tokens",
    "length_of": "messages",
    "total": {"samples": 4000, "rounds": 1.05, "mean": 512.25, "min": 2, "median": 300.0, "max": 9000},
    "sources": [{"name": "recipes/math.yaml", "epochs": 2.0}, {"name": f"闲聊 {ATTACK}", "epochs": 0.25}],
    "by_source": [
        {"samples": 3000, "rounds": 1.0, "mean": 600.0, "min": 9, "median": 350.0, "max": 9000, "licenses": ["mit"]},
        {"samples": 1000, "rounds": 1.2, "mean": 249.0, "min": 2, "median": 90.5, "max": 800, "licenses": ["a", "b"]},
    ],
    "by_kind": [
        {"kind": "math", "samples": 3000, "rounds": 1.0, "mean": 600.0, "min": 9, "median": 350.0, "max": 9000}
    ],
    "languages": {},
}


def test_a_mixture(tmp_path: Path):
    run = tmp_path / "mixture"
    put(run / "recipe.yaml", "task: mix\n")
    put(run / "summary.json", MIXED)
    pair = {side: [{"role": "assistant", "content": f"{side} {ATTACK}"}] for side in ("chosen", "rejected")}
    put_rows(run / "data" / "train-00000-of-00001.parquet", [{"prompt": "asked", **pair, "license": "mit"}])
    text = shown(run)
    assert "4,000 samples" in text
    assert "recipes/math.yaml 3,000 75.0% 2 1.0 600.0 350.0 9,000 mit" in text
    assert f"闲聊 {ATTACK} 1,000 25.0% 0.25 1.2 249.0 90.5 800 a, b of kind math 3,000" in text
    assert "total 4,000 100.0% 1.1 512.2 300.0 9,000" in text
    assert f"asked chosen chosen {ATTACK} rejected rejected {ATTACK} license mit" in text


CONTAMINATION = {
    "sets": {"aime24": 30, "math500": 500},
    "missing": {},
    "ngram": 10,
    "near": 0.8,
    "rows": 12_000,
    "contaminated": 15,
    "hits": {"aime24": {}, "math500": {"10-gram": 12, "near": 3}},
    "action": "drop",
    "reason": None,
}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({}, "15 (0.1%) are contaminated. They were left out."),
        ({"overlap": 0.5}, "10 words in a row (50% of a problem's n-grams or more), and by MinHash"),
        ({"action": "fail"}, "The run stopped at them."),
        (
            {"action": "waive", "reason": f"own split {ATTACK}"},
            f"The contaminated rows stay, because: own split {ATTACK}",
        ),
        ({"contaminated": 0, "hits": {}}, "none is contaminated."),
        (
            {"contaminated": 0, "hits": {}, "action": "waive", "reason": "offline", "missing": {"gpqa": "no login"}},
            "Some sets were not compared, because: offline Not compared: gpqa : no login",
        ),
    ],
)
def test_contamination_of_any_run(tmp_path: Path, found: dict, told: str):
    put_metrics(tmp_path, [{"step": 1, "seconds": 1.0, "loss": 3.0}])
    assert "Contamination" not in shown(tmp_path)
    put(tmp_path / "contamination.json", CONTAMINATION | found)
    text = shown(tmp_path)
    assert told in text and "12,000 rows were compared" in text and "by 10 words in a row" in text
    assert ("math500 500 12 3" in text) == ("hits" not in found)
    assert "Loss" in text


def test_the_first_contaminated_rows(tmp_path: Path):
    put(tmp_path / "recipe.yaml", "task: mix\n")
    put(tmp_path / "contamination.json", CONTAMINATION)
    hit = {"set": "math500", "row": 4, "how": "10-gram", "words": "a b c", "overlap": 0.5}
    rows = [{"text": f"ours {ATTACK}", "row": 700 + i, "hit": hit | {"text": f"theirs {i}"}} for i in range(15)]
    put(tmp_path / "contaminated.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    page = Page(run_report.write_report(tmp_path))
    text = page.line
    assert f"row 700 has 50% of math500 row 4 (10-gram): a b c Here ours {ATTACK} math500 theirs 0" in text
    assert text.count("(10-gram)") == run_report.CONTAMINATED and "script" not in page.tags


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [
        (0, 10, "0.0%"),
        (1, 10_000_000, "<0.1%"),
        (1, 8, "12.5%"),
        (9_999_999, 10_000_000, ">99.9%"),
        (10, 10, "100.0%"),
        (0, 0, "-"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_all(part: int, whole: int, told: str):
    assert tables.format_percent(part, whole) == told


def test_never_and_always_solved_stand_apart_from_the_bands():
    bars = curves.plot_pass_rates({"never": 7, "between": [*range(1, 11)], "always": 5, "unjudged": 3})
    assert bars.counts == {
        "sometimes": [0, 0, *range(1, 11), 0, 0],
        "never or always": [7, 0, *[0] * 10, 0, 5],
    }
    assert len(bars.edges) == len(bars.counts["sometimes"]) + 1 and bars.total == 67
    assert bars.ticks == {0.5: "never", 3.5: "20%", 5.5: "40%", 7.5: "60%", 9.5: "80%", 12.5: "always"}


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
    text = shown(evaluated)
    problems = re.findall(r"made-(\d+) \1 ([\d.]+)%", text)
    rates = [float(rate) for _, rate in problems]
    assert len(problems) == 20 and rates == sorted(rates) and rates[0] == 0.0 and rates[-1] == 100.0
    assert "made-0 0 - 0 0" in text, "one without a verdict has no rate"


def test_an_evaluation_beside_published_figures(evaluated: Path):
    assert "Beside what was published" not in shown(evaluated), "nothing was published of this model"
    recipe = (evaluated / "recipe.yaml").read_text()
    put(evaluated / "recipe.yaml", f"{recipe}reference: students\n")
    text = shown(evaluated)
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
    text = shown(tmp_path)
    assert "running · 1 of 12 files sampled · 1 of 12 files judged · 12 s · model ours" in text
    assert "Nothing has been measured yet" in text
    put_evaluation(tmp_path, evaluation(samples([0.5], 1), ("pass@1",)))
    text = shown(tmp_path)
    assert "Nothing has been measured" not in text and "Made up 1 1 pass@1" in text


def test_a_long_table_of_problems_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages_evaluation, "PROBLEMS", 5)
    put(tmp_path / "recipe.yaml", "task: evaluate\n")
    put_evaluation(tmp_path, evaluation(samples([1.0] * 12, 2)))
    text = shown(tmp_path)
    assert (
        len(re.findall(r"made-\d+ \d+ 100.0%", text)) == 5 and "and 7 more, which are in evaluations/made.json" in text
    )


def test_lengths_count_every_completion_once(tmp_path: Path):
    rows = [{"benchmark": name, "tokens": tokens, "finish_reason": reason} for name, tokens, reason in (
        ("a", 0, "stop"), ("a", 1, "stop"), ("a", 700, "length"), ("a", 9, "refused"), ("b", 3, "stop"),
    )]  # fmt: skip
    put_rows(tmp_path / "train-00000-of-00001.parquet", rows)
    found = _count_lengths(tmp_path)
    assert sum(found["a"]["counts"]) == 3 and sum(found["a"]["truncated"]) == 1 and sum(found["b"]["counts"]) == 1
    assert len(found["a"]["counts"]) <= BINS and found["a"]["edges"][-1] >= 700


def test_a_training_beside_a_reference(grpo: Path):
    assert "Beside a reference" not in shown(grpo)
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
