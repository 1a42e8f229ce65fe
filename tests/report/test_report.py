"""The pages of the data engine, and the contamination gate on any page."""

import json
from pathlib import Path

import pytest
from support.pages import ATTACK, PNG, Page, put, put_metrics, put_rows, read_page

from open_r1.curation import funnel
from open_r1.errors import RecipeError
from open_r1.evaluation import tables
from open_r1.report import curves, run_report
from open_r1.report.pages.data import EXAMPLES, REASONS


def test_a_directory_that_is_no_run(tmp_path: Path):
    with pytest.raises(RecipeError, match="is not a run directory"):
        run_report.write_report(tmp_path)


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
    first = read_page(sampling)
    assert before in first and after not in first
    put(sampling / "summary.json", SAMPLED | change)
    second = read_page(sampling)
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
    text = read_page(sampling)
    assert "interrupted · 8 completions · 100 tokens · 2 of 9 files · 1 min 1 s · engine vllm · model base" in text
    assert "[system] be brief [user] two and two" in text and "Sampling is not complete" in text
    assert f"{ATTACK} sample 0" in text and "sample 1" not in text, "one completion of each prompt"


@pytest.mark.parametrize("task", ["sample", "select", "mix"])
def test_a_data_task_that_has_just_begun(tmp_path: Path, task: str):
    run = tmp_path / task
    put(run / "recipe.yaml", f"task: {task}\n")
    text = read_page(run)
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
    counts.count_samples(rows[:4])
    counts.count_samples(rows[4:])
    for step in ("sampled", "judged"):
        counts.apply_step(step, left, [None] * 8)
    for step, reasons in reasons_by_step.items():
        left = counts.apply_step(step, left, reasons[: len(left)])
    counts.apply_step("selected", left, [None] * len(left))
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
    assert "wrong 2 25.0%" in text and "1 of the 8 samples with a finish reason were truncated (12%)" in text
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
    text = read_page(tmp_path)
    assert "running · 1 of 12 judged files · 12 s" in text and "The funnel is written when the selection ends" in text


def test_figures_of_a_selection_are_those_of_its_funnel(tmp_path: Path):
    run = selected(tmp_path / "reasoning", correct=["wrong", None, None, None, None, None, None, None])
    told = json.loads((run / "funnel.json").read_text())
    assert "correct 7 1 12.5% 1 1 × wrong" in read_page(run)
    told["steps"][2] |= {"kept": 5_000_000, "dropped": 1, "reasons": {"wrong": 1}, "prompts": 77}
    put(run / "funnel.json", told)
    assert "correct 5,000,000 1 <0.1% 77 1 × wrong" in read_page(run)


def test_a_selection_that_keeps_nothing_says_which_step_took_the_last(tmp_path: Path):
    run = selected(tmp_path / "emptied", first=[None] * 8, 一种语言=[f"mixed {ATTACK}"] * 8, later=[])
    text = read_page(run)
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
    text = read_page(run)
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
        ({"overlap": 0.5}, "10 words in a row (50% of a problem's n-grams or more), and by word pairs"),
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
    assert "Contamination" not in read_page(tmp_path)
    put(tmp_path / "contamination.json", CONTAMINATION | found)
    text = read_page(tmp_path)
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
