"""Rejection sampling: what is judged, dropped, counted and written, whatever the rows are and whenever it dies."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import warm

from open_r1 import selection
from open_r1.config.loading import load_recipe
from open_r1.config.schema import DataConfig, DatasetConfig
from open_r1.config.sharded_tasks import PairsConfig, SelectConfig
from open_r1.curation import by_prompt, rejection_sampling, scoring
from open_r1.curation.funnel import MOST_REASONS, OTHERS, Funnel, find_band
from open_r1.data import presenting, shards
from open_r1.data.sources import load_source
from open_r1.errors import RecipeError
from open_r1.filters.registry import FilterConfig
from open_r1.prompts import hash_prompt
from open_r1.rewards.verdict import Verdict
from open_r1.system import files, locks

FIRST = ["sampled", "judged"]


def think(answer: object, words: int = 4) -> str:
    return f"<think>{'so it goes on ' * words}</think>\n\\boxed{{{answer}}}"


def samples(prompts: int = 6, n: int = 4) -> list[dict]:
    """Of prompt p, p samples are right (all from n on); the answer is p."""
    return [
        {
            "prompt": f"What is the number {p}?",
            "solution": str(p),
            "completion": think(p if k < p else -1, words=1 + k),
            "sample": k,
            "row": p,
            "tokens": 10 + k,
            "finish_reason": "stop",
            "model": "m",
            "seed": 100 * p + k,
        }
        for p in range(prompts)
        for k in range(n)
    ]


@pytest.fixture
def selected(tmp_path, write_recipe):
    """`selected(rows, **keys)`: the run directory of a select recipe over these rows."""

    def do(rows: list[dict], name: str = "run", source: dict | None = None, **keys) -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        keys.setdefault("datasets", [{"path": str(path)} | (source or {})])
        keys = {"rewards": ["accuracy"], "filters": [], "output_dir": str(tmp_path / name)} | keys
        recipe = load_recipe(write_recipe("select", name, **keys))
        return selection.main(recipe).dir

    return do


def rows_of(folder: Path) -> list[dict]:
    return [row for batch in shards.read_folder(folder) for row in batch]


def funnel_of(directory: Path) -> dict:
    return files.read_json(directory / "funnel.json")


def steps_of(directory: Path) -> dict[str, dict]:
    return {step["name"]: step for step in funnel_of(directory)["steps"]}


def everything(directory: Path) -> dict:
    """What a selection leaves behind, but for times and paths."""
    curriculum = sorted((directory / "curriculum").glob("*.parquet"))
    return {
        "judged": rows_of(directory / "judged"),
        "data": rows_of(directory / "data"),
        "names": sorted(path.name for path in (directory / "data").glob("*.parquet")),
        "curriculum": {path.name: pyarrow.parquet.read_table(path).to_pylist() for path in curriculum},
        "funnel": (directory / "funnel.json").read_text(),
        "rejected": (directory / "rejected.jsonl").read_text(),
    }


def test_messages_with_their_lineage_a_funnel_and_a_curriculum(selected):
    filters = ["correct", {"name": "pass_rate", "max": 0.9}, {"name": "best", "k": 2, "by": "longest"}]
    rewards = ["accuracy", {"name": "think_format"}]
    directory = selected(samples(), filters=filters, rewards=rewards, curriculum=[0.25, 0.5], shard_rows=2)
    rows = rows_of(directory / "data")
    # Prompt 0 is never solved, 4 and 5 always.
    assert [(row["row"], row["sample"]) for row in rows] == [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2)]
    assert rows[1] == {
        "messages": [
            {"role": "user", "content": "What is the number 2?"},
            {"role": "assistant", "content": think(2, words=1)},
        ],
        "prompt_id": hash_prompt("What is the number 2?"), "row": 2, "sample": 0, "seed": 200, "model": "m",
        "source": rows[1]["source"], "verdict": "correct", "reason": "",
        "scores": {"accuracy": 1.0, "think_format": 1.0}, "tokens": 10, "pass_rate": 0.5, "solution": "2",
    }  # fmt: skip
    told = funnel_of(directory)
    assert [(s["name"], s["kept"], s["dropped"], s["prompts"], s["reasons"]) for s in told["steps"]] == [
        ("sampled", 24, 0, 6, {}),
        ("judged", 24, 0, 6, {}),
        ("correct", 14, 10, 5, {"wrong": 10}),
        ("pass_rate", 6, 8, 3, {"too often solved": 8}),
        ("best", 5, 1, 3, {"not among the best 2": 1}),
        ("selected", 5, 0, 3, {}),
    ]
    assert told["verdicts"] == {"correct": 14, "wrong": 10}
    assert told["truncated"] == {"samples": 0, "known": 24, "share": 0.0}
    assert told["pass_rates"] == {"never": 1, "between": [0, 0, 1, 0, 1, 0, 0, 1, 0, 0], "always": 2, "unjudged": 0}
    assert told["curriculum"] == {"never": 1, "0-0.25": 1, "0.25-0.5": 1, "0.5-1": 1, "always": 2, "unjudged": 0}
    rejected = [json.loads(line) for line in (directory / "rejected.jsonl").read_text().splitlines()]
    for step, reasons in told["examples"].items():
        for reason, lines in reasons.items():
            assert len(lines) == min(3, steps_of(directory)[step]["reasons"][reason])
            assert {(rejected[i]["step"], rejected[i]["reason"]) for i in lines} == {(step, reason)}
    assert sum(len(lines) for reasons in told["examples"].values() for lines in reasons.values()) == len(rejected)
    assert [(row["row"], row["sample"]) for row in rejected[:3]] == [(0, 0), (0, 1), (0, 2)], "the first ones"
    always = load_source(DatasetConfig(str(directory / "curriculum" / "always.parquet")), 0)
    assert always["solution"] == ["4", "5"] and always["pass_rate"] == [1.0, 1.0] and "completion" not in always[0]
    assert not list(directory.glob(".selecting*")) and not list((directory / "data").glob(".*"))


def test_the_result_is_what_the_trainers_read(selected):
    messages, pairs = selected(samples()), selected(samples(), "pairs", output="pairs")
    sft = presenting.load_datasets([DatasetConfig(str(messages / "data"))], "sft", DataConfig(), 0)
    assert [message["role"] for message in sft[0]["messages"]] == ["user", "assistant"]
    dpo = presenting.load_datasets([DatasetConfig(str(pairs / "data"))], "dpo", DataConfig(), 0)
    assert [dpo[0][column][0]["role"] for column in ("prompt", "chosen", "rejected")] == ["user", *["assistant"] * 2]
    grpo = DatasetConfig(str(selected(samples(), "c", curriculum=[0.5]) / "curriculum" / "0-0.5.parquet"))
    assert presenting.load_datasets([grpo], "grpo", DataConfig(), 0)[0]["solution"] == "1"


def judged_row(verdict: str, sample: int, tokens: int = 10, **columns) -> dict:
    made = {"prompt": "p", "prompt_id": "p", "row": 0, "sample": sample, "completion": think(sample), "tokens": tokens}
    return made | {"verdict": verdict, "reason": "", "scores": None, "finish_reason": "stop"} | columns


def sifted(rows: list[dict], filters: tuple = (), **args) -> tuple[list[dict], Funnel]:
    config = SelectConfig(filters=[FilterConfig(name) for name in filters], **args)
    found = rejection_sampling.select_from_prompts([rows], config)
    return found.rows, found.funnel


def paired(rows: list[dict], filters: tuple = ("correct",), **pairs) -> list[tuple[int, int]]:
    found, _ = sifted(rows, filters, output="pairs", pairs=PairsConfig(**pairs))
    return [(row["chosen_sample"], row["rejected_sample"]) for row in found]


def test_unknown_is_not_wrong():
    rows = [judged_row(v, k) for k, v in enumerate(["correct", "wrong", "unknown", "error", "unknown", ""])]
    assert rejection_sampling.compute_pass_rate(rows) == 0.5 and rejection_sampling.compute_pass_rate(rows[2:]) is None
    assert paired(rows, per_prompt=9) == [(0, 1)]
    assert paired([rows[0], *rows[2:]], per_prompt=9) == []
    scored = [row | {"scores": {"q": 1.0 - row["sample"] / 9}} for row in rows]
    # A score does not make up for a verifier that could not judge.
    assert paired(scored, (), by="q", per_prompt=9) == [(0, 1)]


@pytest.mark.parametrize(
    ("rows", "pairs", "expected"),
    [
        ([("correct", 10), ("wrong", 15)], {}, [(0, 1)]),
        ([("correct", 10), ("wrong", 16)], {}, []),
        ([("wrong", 16), ("correct", 10)], {"max_length_ratio": 1.6}, [(1, 0)]),
        ([("correct", 10), ("wrong", 15), ("wrong", 11)], {}, [(0, 2)]),
        ([("correct", 10), ("wrong", 11), ("wrong", 11)], {"per_prompt": 2}, [(0, 1)]),
        ([("correct", 10), ("correct", 12), ("wrong", 12), ("wrong", 11)], {"per_prompt": 2}, [(0, 3), (1, 2)]),
        ([("correct", 10), ("correct", 12), ("wrong", 12), ("wrong", 11)], {"per_prompt": 1}, [(1, 2)]),
        ([("correct", 10), ("correct", 10)], {}, []),
    ],
)
def test_pairs_are_of_comparable_length_nearest_first_each_sample_once(rows, pairs, expected):
    assert paired([judged_row(verdict, k, tokens) for k, (verdict, tokens) in enumerate(rows)], **pairs) == expected


def test_the_worse_side_is_finished_and_the_better_one_has_passed_the_filters():
    truncated = judged_row("wrong", 1, finish_reason="length")
    assert paired([judged_row("correct", 0), truncated]) == []
    code = judged_row("correct", 0, completion="<think>```\n4\n```</think>4")
    rows = [
        code,
        judged_row("wrong", 1, completion="<think>```\n5\n```</think>5"),
        judged_row("correct", 2, tokens=14),
    ]
    assert paired(rows, ("no_code_in_reasoning",)) == [(2, 1)]


def test_pairs_by_a_reward_keep_a_margin_and_the_lineage_of_both_sides():
    rows = [judged_row("", k, scores={"q": q}, seed=k) for k, q in enumerate([0.9, 0.5, 0.45, None])]
    assert paired(rows, (), by="q", min_margin=0.4, per_prompt=9) == [(0, 1)]
    assert paired(rows, (), by="q", min_margin=0.5, per_prompt=9) == []
    assert paired(rows[1:2] * 2, (), by="q") == [], "equal scores are no preference"
    found, funnel = sifted(rows, (), output="pairs", pairs=PairsConfig(by="q", min_margin=0.4))
    assert found[0]["margin"] == pytest.approx(0.4) and found[0]["length_ratio"] == 1.0
    assert found[0]["chosen_seed"] == 0 and found[0]["rejected_scores"] == {"q": 0.5}
    assert found[0]["rejected"] == [{"role": "assistant", "content": think(1)}]
    assert dict(funnel.steps["pairs"].reasons) == {"enough pairs, or no worse sample left": 2, "no evidence by q": 1}


@pytest.mark.parametrize(
    ("args", "row", "expected"),
    [
        ({}, {}, think("4")),
        ({"reasoning": "drop"}, {}, "\\boxed{4}"),
        ({"reasoning": "drop", "no_reasoning": "empty_think"}, {}, "<think>\n\n</think>\n\n\\boxed{4}"),
        ({"reasoning": "drop"}, {"completion": "<think>a</think><answer> 4 </answer>"}, "4"),
        ({"reasoning": "drop"}, {"completion": "Hello!"}, "Hello!"),
        ({"reasoning": "drop"}, {"completion": "<think>never closed"}, None),
        ({"reasoning": "auto"}, {"completion": "<think>a</think>Hello!"}, "Hello!"),
        ({"reasoning": "auto"}, {"completion": "<think>a</think>Hi", "verdict": "correct"}, "<think>a</think>Hi"),
        ({"reasoning": "auto"}, {"prompt": "why " * 12}, "\\boxed{4}"),
        ({"reasoning": "auto"}, {"prompt": "why " * 13}, think("4")),
        ({"reasoning": "auto"}, {"prompt": "为什么呢" * 6}, "\\boxed{4}"),
        ({"reasoning": "auto"}, {"prompt": "为什么呢" * 7}, think("4")),
        ({"reasoning": "auto"}, {"completion": "<think>a</think>" + "b " * 41}, "<think>a</think>" + "b " * 41),
        ({"reasoning": "auto"}, {"prompt": [{"role": "user", "content": "hello"}]}, "\\boxed{4}"),
    ],
)  # fmt: skip
def test_how_an_answer_is_written(args, row, expected):
    found, funnel = sifted([judged_row("", 4) | row], **args)
    assert [message["messages"][-1]["content"] for message in found] == ([] if expected is None else [expected])
    if expected is None:
        assert dict(funnel.steps["reasoning"].reasons) == {"no answer after the reasoning": 1}


OUTCOMES = st.sampled_from(["correct", "wrong", "unknown", "error", ""])
JUDGED = st.builds(
    judged_row,
    OUTCOMES,
    st.integers(0, 9),
    st.integers(1, 30),
    completion=st.sampled_from([None, " ", think(1), think(2), "<think>x"]),
    refused=st.sampled_from([None, "too long: 9 tokens"]),
    finish_reason=st.sampled_from([None, "stop", "length"]),
    scores=st.none() | st.fixed_dictionaries({"q": st.none() | st.floats(0, 1)}),
)
NAMES = st.lists(st.sampled_from(["correct", "finished", "majority", "distinct", "pass_rate"]), unique=True)


@given(
    prompts=st.lists(st.lists(JUDGED, min_size=1, max_size=8), max_size=6),
    filters=NAMES,
    output=st.sampled_from(["messages", "pairs"]),
    reasoning=st.sampled_from(["keep", "drop", "auto"]),
    by=st.sampled_from(["verdict", "q"]),
    cut=st.integers(0, 6),
)
def test_nothing_is_dropped_without_being_counted(prompts, filters, output, reasoning, by, cut):
    config = SelectConfig(
        filters=[FilterConfig(name) for name in filters], output=output, reasoning=reasoning,
        pairs=PairsConfig(by=by, per_prompt=3), examples=1,
    )  # fmt: skip
    whole = rejection_sampling.select_from_prompts(prompts, config)
    steps = [step for name, step in whole.funnel.steps.items() if name != "selected"]
    assert steps[0].kept == sum(map(len, prompts)) and steps[0].dropped == 0
    for before, after in pairwise(steps):
        assert after.kept + after.dropped == before.kept and after.prompts <= before.prompts
    assert steps[-1].kept == len(whole.rows)
    # Two processes count as one does.
    first, second = (
        rejection_sampling.select_from_prompts(prompts[:cut], config),
        rejection_sampling.select_from_prompts(prompts[cut:], config),
    )
    first.funnel.add(second.funnel)
    assert first.rows + second.rows == whole.rows
    assert first.funnel.as_json(output, None) == whole.funnel.as_json(output, None)
    assert first.funnel.rejected() == whole.funnel.rejected()


def test_a_filter_that_names_every_case_does_not_fill_memory():
    funnel = Funnel(["own"], examples=2)
    for i in range(3 * MOST_REASONS):
        funnel.apply_step("own", [judged_row("", i)], [f"case {i}"])
    step = funnel.steps["own"]
    assert len(step.reasons) == MOST_REASONS + 1 and step.dropped == 3 * MOST_REASONS
    assert step.reasons[OTHERS] == 2 * MOST_REASONS and len(step.examples[OTHERS]) == 2


def test_bands_hold_their_upper_bounds():
    rates = [None, 0.0, 1.0, 1 / 64, 0.1, 0.1001, 0.3, 0.7, 63 / 64]
    assert [find_band(rate) for rate in rates] == ["unjudged", "never", "always", 0, 0, 1, 2, 6, 9]


def test_a_list_of_completions_is_several_samples(selected):
    several = [think(1), think(2), None]
    rows = [
        {"problem": "1?", "answer": "1", "generations": several, "finish": ["stop", "length", "stop"]},
        {"problem": "2?", "answer": "2", "generations": [], "finish": []},
    ]
    theirs = {"prompt": "problem", "solution": "answer", "completion": "generations", "finish_reason": "finish"}
    directory = selected(rows, source={"columns": theirs})
    judged = rows_of(directory / "judged")
    assert [(row["row"], row["sample"], row["verdict"], row["finish_reason"]) for row in judged] == [
        (0, 0, "correct", "stop"), (0, 1, "wrong", "length"), (0, 2, "unknown", "stop"), (1, 0, "unknown", None),
    ]  # fmt: skip
    assert steps_of(directory)["judged"]["reasons"] == {"empty completion": 2}
    assert funnel_of(directory)["truncated"] == {"samples": 1, "known": 3, "share": 1 / 3}


def test_rows_that_cannot_be_judged_are_unknown_and_never_lost(selected):
    user = {"role": "user", "content": "1?"}
    rows = [
        {"messages": [user, {"role": "assistant", "content": think(1)}], "solution": "1"},
        {"messages": [user, {"role": "assistant", "content": think(2)}], "solution": "1"},
        {"messages": [user, {"role": "assistant", "content": think(1)}], "solution": None},
        {"messages": [user, {"role": "assistant", "content": think(1)}], "solution": ""},
        {"messages": [user], "solution": "1"},
        {"messages": [user, {"role": "assistant", "content": ""}], "solution": "1"},
        {"messages": [user, {"role": "assistant", "content": None}], "solution": "1"},
        {"messages": [{"role": "assistant", "content": think(1)}], "solution": "1"},
        {"messages": [], "solution": "1"},
    ]
    directory = selected(rows, filters=["correct"])
    judged = rows_of(directory / "judged")
    assert [row["verdict"] for row in judged] == ["correct", "wrong", *["unknown"] * 7]
    assert judged[2]["reason"] == judged[3]["reason"] == "accuracy needs solution, which the row leaves empty"
    assert [row["row"] for row in judged] == list(range(9))
    assert judged[0]["prompt_id"] == judged[1]["prompt_id"] == hash_prompt([user])
    reasons = steps_of(directory)["judged"]["reasons"]
    assert reasons == {"refused: malformed messages": 2, "empty prompt": 2, "empty completion": 1}
    assert len(rows_of(directory / "data")) == 1


def test_a_prompt_beside_conversations_is_not_what_is_selected(selected):
    """As in instruction data that repeats the first question in a column of its own; a sampled row has the reverse."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    asked = [*turns, {"role": "user", "content": "1 ?"}]
    rows = [{"prompt": "Hi", "prompt_id": "h", "messages": [*asked, {"role": "assistant", "content": "1"}]}]
    directory = selected(rows, rewards=[])
    assert [row["messages"] for row in rows_of(directory / "data")] == [rows[0]["messages"]]
    sampled = [{"prompt": "Hi", "completion": text, "messages": turns, "refused": None} for text in ("Yes?", None)]
    told = selected(sampled, "sampled", rewards=[])
    assert [row["messages"][-1]["content"] for row in rows_of(told / "data")] == ["Yes?"]
    assert steps_of(told)["judged"]["reasons"] == {"empty completion": 1}


def test_an_answer_without_its_reasoning_has_not_the_tokens_of_both():
    found, _ = sifted([judged_row("", 4), judged_row("", 5, completion="Hello!")], reasoning="drop")
    assert [row["tokens"] for row in found] == [None, 10]


@pytest.mark.parametrize(
    ("change", "keys", "told"),
    [
        ({"solution": ...}, {}, r"datasets.0 .*accuracy needs the column 'solution'.*columns: \{solution"),
        ({"completion": ...}, {}, "select needs the columns prompt \\+ completion or messages"),
        ({"tokens": ...}, {"filters": [{"name": "length", "max": 9}]}, "length needs the column `tokens`.*tokenizer"),
        ({}, {"filters": [{"name": "correct", "kinds": ["math"]}]}, "correct is for `kinds` of rows.*kind: math"),
        ({}, {"rewards": [{"name": "accuracy", "kinds": ["math"]}]}, "some rewards are for `kinds` of rows"),
        ({}, {"filters": ["corect"]}, "did you mean 'correct'"),
        ({}, {"rewards": [], "filters": [{"name": "best", "by": "accuracy"}]}, "this recipe has no reward 'accuracy'"),
        ({}, {"rewards": [], "output": "pairs", "pairs": {"by": "quality"}}, "'quality' is neither"),
        ({}, {"rewards": [{"name": "soft_overlong"}]}, "soft_overlong"),
    ],
)  # fmt: skip
def test_what_the_rows_lack_is_said_before_anything_is_judged(selected, change, keys, told):
    rows = [{k: v for k, v in (row | change).items() if v is not ...} for row in samples(2)]
    with pytest.raises(RecipeError, match=told):
        selected(rows, **keys)


def test_text_prompts_with_malformed_completions_keep_their_prompts(selected):
    said = {"role": "assistant", "content": "1"}
    rows = [{"prompt": "1?", "completion": [said | {"content": c}], "solution": "1", "seed": 2.0} for c in ("1", None)]
    judged = rows_of(selected(rows) / "judged")
    assert [row["verdict"] for row in judged] == ["correct", "unknown"]
    assert [(row["prompt"], row["completion"], row["seed"]) for row in judged] == [("1?", "1", 2), ("1?", None, 2)]


def test_a_column_that_one_source_lacks_is_that_source_s_mistake(selected, tmp_path):
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "1?", "completion": "1"}\n')
    with pytest.raises(RecipeError, match=r"datasets.1 .*accuracy needs the column 'solution'"):
        selected(samples(2), "a", datasets=[str(_stored(tmp_path, samples(2))), str(bare)])
    # A reward for other kinds of rows does not need it.
    math = {"path": str(_stored(tmp_path, samples(2))), "kind": "math"}
    sources = [math, {"path": str(bare), "kind": "general"}]
    directory = selected([], "b", datasets=sources, rewards=[{"name": "accuracy", "kinds": ["math"]}])
    assert Counter(row["verdict"] for row in rows_of(directory / "judged")) == {"correct": 1, "wrong": 7, "": 1}


def _stored(folder: Path, rows: list[dict]) -> Path:
    path = folder / "stored.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_full_disk_says_so(selected, monkeypatch):
    apart = samples(4)
    random.Random(0).shuffle(apart)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.ipc, "new_stream", full)
    with pytest.raises(RecipeError, match=r"the disk is full: .*buckets could not be written"):
        selected(apart)


def test_contaminated_prompts_are_dropped_before_they_are_judged(selected, tmp_path):
    tests = tmp_path / "tests.jsonl"
    tests.write_text(json.dumps({"prompt": "What is the number 2?"}) + "\n")
    gate = {"against": [str(tests)], "ngram": 4, "action": "drop"}
    rows = [row | {"prompt": f"Say number {row['solution']}, please"} for row in samples()]
    rows[8:12] = samples()[8:12]
    directory = selected(rows, contamination=gate)
    assert {row["solution"] for row in rows_of(directory / "judged")} == {"0", "1", "3", "4", "5"}


def test_conversations_and_counted_tokens(selected):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 ?"}]
    rows = [
        {"prompt": asked, "completion": "3", "solution": "3"},
        {"prompt": asked, "completion": "3 3", "solution": "3"},
    ]
    length = {"name": "length", "max": 1}
    directory = selected(rows, filters=[length], tokenizer_name_or_path="open_r1.tiny.tokenizer:build")
    assert [row["tokens"] for row in rows_of(directory / "judged")] == [1, 2]
    kept = rows_of(directory / "data")
    assert [row["messages"] for row in kept] == [[*asked, {"role": "assistant", "content": "3"}]]


def test_prompts_whose_samples_lie_apart_are_brought_together(selected, monkeypatch):
    keys = {"filters": ["correct", "pass_rate", {"name": "best", "by": "shortest"}], "curriculum": [0.5]}
    together = selected(samples(40), "together", **keys)
    apart = samples(40)
    random.Random(0).shuffle(apart)
    monkeypatch.setattr(by_prompt, "BUCKET_BYTES", 2000)
    monkeypatch.setattr(by_prompt, "OPEN_FILES", 2)
    mixed = selected(apart, "mixed", **keys)
    scratch = mixed / "scratch"
    scratch.mkdir()
    assert not by_prompt.are_prompts_contiguous(mixed / "judged")
    assert by_prompt.are_prompts_contiguous(together / "judged")
    assert len({len(group) for group in by_prompt.regroup(mixed / "judged", scratch)}) == 1
    assert not list(scratch.iterdir())
    opened, limit = [], pyarrow.parquet.ParquetFile
    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", lambda path: opened.append(limit(path)) or opened[-1])
    list(by_prompt.regroup(mixed / "judged", scratch))
    assert opened and all(file.closed for file in opened[:-1]), "many files are not all open at once"
    assert steps_of(mixed) == steps_of(together)
    lineage = [
        sorted((row["row"], row["sample"], row["pass_rate"]) for row in rows_of(run_dir / "data"))
        for run_dir in (mixed, together)
    ]
    assert lineage[0] == lineage[1] and len(lineage[0]) == 3


def test_many_samples_are_sifted_in_other_processes_with_the_same_result(selected, tmp_path, monkeypatch):
    keys = {"filters": ["correct", "pass_rate"], "curriculum": [0.5], "shard_rows": 7}
    alone = everything(selected(samples(12), "alone", **keys))
    monkeypatch.setattr(selection, "CHUNK_ROWS", 5)
    monkeypatch.setattr(selection, "count_cores", lambda: 2)
    many = everything(selected(samples(12), "many", **keys | {"datasets": [alone_source(alone)]}))
    assert many == alone
    (tmp_path / "crashing.py").write_text("def crash(samples):\n    return samples[0]['no such key']\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match=r"crash failed on prompt .*, sample 0: KeyError: 'no such key'"):
        selected(samples(12), "crash", filters=["crashing:crash"])


@pytest.mark.parametrize("answer", ["True", "''", "[True]"])
def test_a_filter_that_answers_neither_none_nor_a_reason_is_refused(selected, tmp_path, monkeypatch, answer):
    argument = "samples" if "[" in answer else "completion"
    (tmp_path / "answering.py").write_text(f"def answers({argument}):\n    return {answer}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "answering", raising=False)
    with pytest.raises(RecipeError, match=r"answers gave (True|'') for prompt .*, sample 0; .*None to keep"):
        selected(samples(2)[4:5], filters=["answering:answers"])


def alone_source(found: dict) -> str:
    return found["judged"][0]["source"]


def failing(completion: str, solution: str) -> Verdict:
    if (Path(solution).parent / "down").exists() and solution.endswith(("1", "2")):
        raise TimeoutError("the judge did not answer")
    return Verdict("correct")


def test_judges_that_fail_stop_the_run_and_it_goes_on_once_they_work(selected, tmp_path):
    rows = [row | {"solution": str(tmp_path / row["solution"])} for row in samples(6)]
    keys = {"rewards": [f"{__name__}:failing"], "filters": ["correct"], "shard_rows": 4, "max_error_share": 0.5}
    (tmp_path / "down").touch()
    with pytest.raises(
        RecipeError, match=r"failed on 4 of 4 samples.*4 times: TimeoutError in failing .*run the same command again"
    ):
        selected(rows, **keys)
    judged = tmp_path / "run" / "judged"
    assert [path.name for path in sorted(judged.iterdir())] == ["train-00000-of-00006.parquet"]
    (tmp_path / "down").unlink()
    before = (judged / "train-00000-of-00006.parquet").stat().st_mtime_ns
    directory = selected(rows, **keys)
    assert steps_of(directory)["correct"]["kept"] == 24
    assert (judged / "train-00000-of-00006.parquet").stat().st_mtime_ns == before, "what was judged is not repeated"


def test_a_few_failures_are_counted_and_are_no_evidence(selected, tmp_path):
    rows = [row | {"solution": str(tmp_path / row["solution"])} for row in samples(6)]
    (tmp_path / "down").touch()
    directory = selected(rows, rewards=[f"{__name__}:failing"], filters=["correct"], max_error_share=0.5)
    assert funnel_of(directory)["verdicts"] == {"correct": 16, "error": 8}
    reasons = steps_of(directory)["correct"]["reasons"]
    assert len(reasons) == 1 and next(iter(reasons)).startswith("error: TimeoutError in failing (test_selection.py:")
    assert funnel_of(directory)["pass_rates"]["unjudged"] == 2


def group_size(completions: list[str], group: list[int]) -> list[float]:
    return [float(group.count(number)) for number in group]


def test_samples_of_one_prompt_are_judged_together_wherever_the_files_are_cut(selected):
    directory = selected(samples(6), rewards=[f"{__name__}:group_size"], shard_rows=3)
    judged = rows_of(directory / "judged")
    assert [(row["row"], row["sample"]) for row in judged] == [(p, k) for p in range(6) for k in range(4)]
    assert {row["scores"]["group_size"] for row in judged} == {4.0}


def test_the_parts_of_an_array_judge_their_share_and_one_of_them_selects(selected, tmp_path):
    keys = {"filters": ["correct"], "shard_rows": 5}
    alone = everything(selected(samples(), "alone", **keys))
    source = [alone_source(alone)]
    first = selected([], "parts", **keys, datasets=source, parts=2, part=1)
    assert files.read_status(first)["state"] == "waiting" and not (first / "data").exists()
    assert [path.name[6:11] for path in sorted((first / "judged").iterdir())] == ["00001", "00003"]
    locks.release_after_fork()  # the first part's process has ended
    both = selected([], "parts", **keys, datasets=source, parts=2, part=0)
    assert files.read_status(both)["state"] == "finished" and everything(both) == alone


def test_selected_rows_that_repeat_an_earlier_prompt_or_completion_go(selected):
    rows = samples(4)
    again = [row | {"prompt": "what is  THE number 2"} for row in rows if row["solution"] == "2"]
    keys = {"filters": ["correct"], "deduplicate": {"column": "prompt"}}
    once = selected([*rows, *again], "prompts", **keys)
    told = steps_of(once)["deduplicate"]
    assert (told["dropped"], told["reasons"]) == (2, {"repeats an earlier prompt": 2})
    assert [row["row"] for row in rows_of(once / "data")] == [1, 2, 2, 3, 3, 3], "samples of a prompt share it"
    rejected = [json.loads(line) for line in (once / "rejected.jsonl").read_text().splitlines()]
    shown = {(row["prompt"][0]["content"], row["completion"]) for row in rejected if row["step"] == "deduplicate"}
    assert shown == {("what is  THE number 2", think(2, words=1 + k)) for k in range(2)}
    keys["deduplicate"] = {"column": "completion"}
    told = steps_of(selected([*rows, *again], "completions", **keys))["deduplicate"]
    assert (told["kept"], told["reasons"]) == (6, {"repeats an earlier completion": 2})
    keys |= {"deduplicate": {"column": "prompt"}, "output": "pairs"}
    told = funnel_of(selected([*rows, *again], "pairs", **keys))["steps"]
    assert [(step["name"], step["kept"]) for step in told[-2:]] == [("pairs", 4), ("deduplicate", 3)]
    with pytest.raises(RecipeError, match=r"deduplicate\.column: 'completion' is not one of prompt, chosen, rejected"):
        selected(rows, "wrong", **keys | {"deduplicate": {"column": "completion"}})


def test_judged_samples_are_selected_from_again_without_rewards(selected):
    rewards = ["accuracy", {"name": "think_format"}]
    once = selected(samples(), "once", rewards=rewards)
    keys = {"rewards": [], "filters": ["correct", {"name": "min_reward", "reward": "think_format", "min": 1}]}
    again = selected([], "again", datasets=[str(once / "judged")], **keys)
    assert [row["verdict"] for row in rows_of(again / "judged")] == [
        row["verdict"] for row in rows_of(once / "judged")
    ]
    assert steps_of(again)["min_reward"]["kept"] == 14


def test_nothing_left_is_an_error_that_shows_the_funnel(selected, tmp_path, capsys):
    rows = [row | {"completion": think(-1)} for row in samples()]
    with pytest.raises(
        RecipeError, match=r"left to train on: correct dropped the last 24 samples, 24 of them as `wrong`"
    ):
        selected(rows, filters=["correct"], curriculum=[0.5])
    directory = tmp_path / "run"
    assert "wrong 24" in capsys.readouterr().out and steps_of(directory)["correct"]["dropped"] == 24
    assert len((directory / "rejected.jsonl").read_text().splitlines()) == 3
    assert rows_of(directory / "judged") and not (directory / "data").exists()
    assert [path.name for path in (directory / "curriculum").iterdir()] == ["never.parquet"]


HANGS = """
import os
import time
from pathlib import Path
from open_r1.rewards import Verdict

def hang_if(there):
    if any(Path("killed").glob(there)) and os.environ.get("HANGS_AT") == there:
        time.sleep(600)

def judge(completion, solution):
    hang_if("judged/*.parquet")
    return Verdict("correct" if solution in completion else "wrong")

def keep(samples):
    hang_if(".selecting/data/*")
    return [None if row["verdict"] == "correct" else "wrong" for row in samples]
"""


def test_a_selection_killed_in_judging_and_in_selecting_ends_the_same(selected, tmp_path, monkeypatch):
    (tmp_path / "hangs.py").write_text(HANGS)
    monkeypatch.syspath_prepend(tmp_path)
    keys = {"rewards": ["hangs:judge"], "filters": ["hangs:keep", "pass_rate"], "curriculum": [0.5], "shard_rows": 4}
    whole = selected(samples(60), "whole", **keys)
    recipe = tmp_path / "recipes" / "small" / "select" / "whole.yaml"
    killed = tmp_path / "killed"
    # A row at a time, so that some are written before the last are filtered.
    code = "from open_r1 import selection; from open_r1.config.loading import load_recipe as load; import sys; "
    code += "selection.CHUNK_ROWS = 1; selection.main(load(sys.argv[1], ['--output_dir', sys.argv[2]]))"
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    for moment in ("judged/*.parquet", ".selecting/data/*"):
        words = ["-c", code, recipe, killed]
        hanging = environment | {"HANGS_AT": moment}
        process = warm.Popen(words, env=hanging, cwd=tmp_path, stdout=warm.DEVNULL)
        while process.poll() is None and not list(killed.glob(moment)):
            time.sleep(0.005)
        assert process.poll() is None, f"it ended before {moment} was there"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert len(list((killed / "judged").glob("*.parquet"))) == 60 and not (killed / "data").exists()
    selection.main(load_recipe(recipe, ["--output_dir", str(killed)]))
    assert everything(killed) == everything(whole)
    assert not list(killed.glob(".selecting")) and not list((killed / "judged").glob(".*"))


def test_other_filters_need_no_other_verdicts(selected, monkeypatch):
    assert len(rows_of(selected(samples(), filters=["correct"]) / "data")) > 1

    def judge(*_):
        raise AssertionError("judged again")

    monkeypatch.setattr(scoring, "score_files", judge)
    fewer = ["correct", {"name": "best", "k": 1, "by": "shortest"}]
    again = selected(samples(), filters=fewer, overwrite=True)
    assert {row["sample"] for row in rows_of(again / "data")} and "best" in (again / "funnel.json").read_text()
    with pytest.raises(AssertionError, match="judged again"):
        selected(samples(), filters=fewer, rewards=["accuracy", "think_format"], overwrite=True)
