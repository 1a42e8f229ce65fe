"""Planted contamination is found, whatever its dress; what is not contaminated is left alone."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.benchmarks import registry
from open_r1.config.loading import load_recipe
from open_r1.config.schema import ContaminationConfig, DatasetConfig
from open_r1.data import card, contamination, ngrams
from open_r1.data.contamination import Gate, apply_gate, preview_gate
from open_r1.data.rows import load_rows
from open_r1.data.sources import load_source
from open_r1.errors import RecipeError
from open_r1.prompts import PROMPTS

WORDS = ["train", "plane", "miles", "hours", "how", "many", "sum", "of", "the", "first", "3", "17", "+", "="]
EVALUATION = [
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
    "Compute $\\dbinom{8}{4}$.",
    "Find the sum of all integer bases $b>9$ for which $17_b$ is a divisor of $97_b$, if there are 1,000 of them.",
]
CLEAN = [
    "Natalia sold clips to 48 of her friends in April, and then half as many in May. How many clips is that?",
    "Compute $\\dbinom{8}{5}$.",
    "Find the sum of the digits.",
    "What is the area of a circle?",
]


def prompts(seed: int, texts: list[str], column: str = "prompt") -> datasets.Dataset:
    """An evaluation set for recipes, as `test_contamination:prompts`."""
    return datasets.Dataset.from_dict({column: texts})


def config(texts: list[str] = EVALUATION, **keys: object) -> ContaminationConfig:
    return ContaminationConfig([DatasetConfig("test_contamination:prompts", args={"texts": texts})], **keys)


def run_in(folder: Path, main: bool = True, part: int | None = None) -> SimpleNamespace:
    """What the gate needs of a run."""
    said: list[str] = []
    return SimpleNamespace(
        dir=folder, main=main, recipe=SimpleNamespace(seed=0, part=part), said=said, say=said.append
    )


def plain_hits(evaluation: list[str], texts: list[str], n: int) -> list[bool]:
    """The definition, in plain Python."""

    def runs(text: str) -> set[tuple[str, ...]]:
        words = ngrams.split_words(text)
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    known = set().union(*map(runs, evaluation))
    short = {tuple(words) for text in evaluation if 0 < len(words := ngrams.split_words(text)) < n}
    return [bool(runs(text) & known) or tuple(ngrams.split_words(text)) in short for text in texts]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join), min_size=1, max_size=6),
    st.lists(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join), max_size=12),
    st.integers(1, 5),
)
def test_hits_are_those_of_the_plain_definition(evaluation, texts, n):
    hits = Gate(config(evaluation, ngram=n), 0).find_hits(texts)
    assert [hit is not None for hit in hits] == plain_hits(evaluation, texts, n)
    for hit, text in zip(hits, texts, strict=True):
        if hit is not None:
            assert hit.how in (f"{n}-gram", "whole")
            for side in (text, evaluation[hit.row]):
                assert f" {hit.words} " in f" {' '.join(ngrams.split_words(side))} "


@pytest.mark.parametrize("how", ["exact", "white space", "case", "latex", "inside", "chat", "r1_zero", "boxed"])
def test_planted_copies_are_found(how):
    dress = {
        "exact": lambda text: text,
        "white space": lambda text: "\n\t  ".join(text.split()),
        "case": lambda text: text if "\\" in text else text.upper(),
        "latex": lambda text: (
            text.replace("$", "$$")
            .replace("\\dbinom{8}", "\\left. \\tbinom {8}\\,")
            .replace("b>9", "b\\,>~9")
            .replace("1,000", "1{,}000")
        ),
        "inside": lambda text: text if len(text) < 40 else f"Solve this problem. {text} Show your work.",
        "chat": lambda text: [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}],
        "r1_zero": lambda text: PROMPTS["r1_zero"].present(text),
        "boxed": lambda text: PROMPTS["boxed"].present(text),
    }[how]
    texts = [contamination.extract_questions(dress(text))[0] for text in EVALUATION]
    hits = Gate(config(), 0).find_hits([*CLEAN, *texts, *CLEAN])
    assert [hit and (hit.row, hit.how) for hit in hits] == [
        *[None] * 4, (0, "10-gram"), (1, "whole"), (2, "10-gram"), *[None] * 4,
    ]  # fmt: skip
    assert [hit.overlap for hit in hits if hit] == [1.0, 1.0, 1.0]


def test_an_instruction_that_all_prompts_have_is_no_contamination():
    """Evaluation files carry the boxed instruction of the R1 README, and so may training prompts."""
    around = [PROMPTS["boxed"].present(text)[0]["content"] for text in (EVALUATION[0], CLEAN[0])]
    gate = Gate(config(around[:1]), 0)
    assert gate.find_hits(contamination.extract_questions(around[1])) == [None]
    assert gate.find_hits(contamination.extract_questions(around[0]))[0].overlap == 1.0


def test_of_several_evaluation_prompts_the_one_with_most_in_common_is_named():
    phrase = "where m and n are relatively prime positive integers find m plus n"
    evaluation = [f"Something else entirely {phrase}", f"A fair coin is tossed nine times and then once more {phrase}"]
    (hit,) = Gate(config(evaluation), 0).find_hits([f"A fair coin is tossed nine times and then once more {phrase}."])
    assert (hit.row, hit.set) == (1, "test_contamination:prompts")


def test_overlap_lets_stock_phrases_pass():
    phrase = "let m and n be relatively prime positive integers such that"
    evaluation = [f"{' '.join(f'w{i}' for i in range(60))} {phrase}"]
    assert Gate(config(evaluation), 0).find_hits([phrase])[0].overlap < 0.1
    assert Gate(config(evaluation, overlap=0.1), 0).find_hits([phrase, evaluation[0]])[0] is None
    assert Gate(config(evaluation, overlap=0.1), 0).find_hits([phrase, evaluation[0]])[1].overlap == 1.0
    with pytest.raises(RecipeError, match=r"contamination\.overlap"):
        Gate(config(overlap=30), 0)


def test_a_copy_is_whole_also_where_longer_prompts_hold_the_same_words():
    longer = f"{' '.join(f'w{i}' for i in range(60))} {EVALUATION[0]}"
    repeating = "row row row your boat " * 9
    gate = Gate(config([longer, EVALUATION[0], repeating], overlap=0.5), 0)
    assert [(hit.row, hit.overlap) for hit in gate.find_hits([EVALUATION[0], repeating])] == [(1, 1.0), (2, 1.0)]
    assert gate.find_hits([repeating[:60] * 5])[0].overlap == 1.0
    # One stock phrase said twice is no larger part of the problem.
    phrase = " ".join(f"w{i}" for i in range(12))
    assert gate.find_hits([f"{phrase} so {phrase} " * 20]) == [None]


@pytest.mark.parametrize(
    ("conversation", "contaminated"),
    [
        ([("user", "Hello."), ("assistant", "Hi!"), ("user", EVALUATION[1]), ("assistant", "70")], True),
        ([("system", f"An example: {EVALUATION[0]} 3."), ("user", CLEAN[0])], True),
        ([("user", CLEAN[0]), ("assistant", EVALUATION[0])], False),
        ([("user", EVALUATION[0]), ("user", EVALUATION[2])], True),
    ],
)
def test_every_question_of_a_conversation_is_compared(conversation, contaminated):
    messages = [{"role": role, "content": text} for role, text in conversation]
    clean = [{"role": "user", "content": CLEAN[0]}]
    rows = datasets.Dataset.from_dict({"messages": [clean, messages, clean]})
    recipe = SimpleNamespace(seed=0, data=SimpleNamespace(contamination=config()))
    found = preview_gate(recipe, rows)
    assert (found.rows, [number for number, _, _ in found.first]) == (3, [1] if contaminated else [])
    # A mix takes the messages of a row that has a prompt as well.
    beside = contamination.extract_row_questions({"prompt": "Hello.", "messages": messages, "chosen": EVALUATION[0]})
    assert any(Gate(config(), 0).find_hits(beside)) == contaminated


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), min_size=1, max_size=6),
    st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=12),
    st.sampled_from([0.1, 0.25, 0.5, 0.6, 2 / 3, 0.75, 0.8, 0.9]),
)
def test_near_finds_every_prompt_of_that_similarity(evaluation, texts, near):
    def pairs(text: str) -> set[tuple[str, str]]:
        return set(pairwise(ngrams.split_words(text)))

    def similarity(text: str) -> float:
        return max(len(pairs(text) & pairs(one)) / max(1, len(pairs(text) | pairs(one))) for one in evaluation)

    hits = Gate(config(evaluation, near=near, ngram=20), 0).find_hits(texts)
    for hit, text in zip(hits, texts, strict=True):
        if hit is None or hit.how == "near":
            assert (hit is not None) == (similarity(text) >= near)
            assert hit is None or hit.overlap == round(similarity(text), 3)


def test_near_finds_what_no_ngram_does_and_says_how_alike_it_is():
    planted = (
        "A robe needs 2 bolts of blue fiber and half that much of white fiber. How many bolts total does it take?"
    )
    assert Gate(config(), 0).find_hits([planted]) == [None]
    near, *clean = Gate(config(near=0.6), 0).find_hits([planted, *CLEAN])
    assert near.how == "near" and near.row == 0 and 0.6 <= near.overlap < 1 and near.words == ""
    assert clean == [None] * len(CLEAN)


@pytest.mark.parametrize("layout", ["prompt", "messages", "text", "chosen"])
@pytest.mark.parametrize("streaming", [False, True])
def test_drop_leaves_out_exactly_the_planted_rows(tmp_path, layout, streaming):
    texts = [*CLEAN, EVALUATION[0], CLEAN[0], EVALUATION[1]]
    asked = [[{"role": "user", "content": text}, {"role": "assistant", "content": EVALUATION[2]}] for text in texts]
    values = asked if layout in ("messages", "chosen") else texts
    rows = datasets.Dataset.from_dict({layout: values, "number": range(len(texts))})
    rows = rows.to_iterable_dataset() if streaming else rows
    left = apply_gate(run_in(tmp_path), rows, config(action="drop"))
    assert [row["number"] for row in left] == [0, 1, 2, 3, 5]
    found = json.loads((tmp_path / "contamination.json").read_text())
    assert found["rows"] == 7 and found["contaminated"] == 2 and found["action"] == "drop" and found["ngram"] == 10
    assert found["sets"] == {"test_contamination:prompts": 3}
    assert found["hits"] == {"test_contamination:prompts": {"10-gram": 1, "whole": 1}}
    listed = [json.loads(line) for line in (tmp_path / "contaminated.jsonl").read_text().splitlines()]
    assert [(row["row"], row["hit"]["row"], row["hit"]["how"]) for row in listed] == [
        (4, 0, "10-gram"),
        (6, 1, "whole"),
    ]
    assert listed[0]["text"] == EVALUATION[0][:200]
    if streaming:
        assert len(list(left)) == 5
        again = json.loads((tmp_path / "contamination.json").read_text())
        assert (again["rows"], again["contaminated"]) == (7, 2), "a second epoch is not counted again"


@pytest.mark.parametrize("streaming", [False, True])
def test_fail_stops_and_lists_the_rows(tmp_path, streaming):
    rows = prompts(0, [*CLEAN, *EVALUATION])
    rows = rows.to_iterable_dataset() if streaming else rows
    with pytest.raises(RecipeError) as refused:
        list(apply_gate(run_in(tmp_path), rows, config()))
    message = str(refused.value)
    assert "3 of 7 rows" in message and str(tmp_path / "contaminated.jsonl") in message
    assert "row 4: " in message and "test_contamination:prompts row 0" in message
    assert "drop" in message and "waive" in message
    assert len((tmp_path / "contaminated.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_waive_keeps_everything_and_the_reason(tmp_path, streaming):
    rows = prompts(0, [*CLEAN, *EVALUATION])
    rows = rows.to_iterable_dataset() if streaming else rows
    run = run_in(tmp_path)
    assert len(list(apply_gate(run, rows, config(action="waive", reason="we measure memorisation")))) == 7
    found = json.loads((tmp_path / "contamination.json").read_text())
    assert found["reason"] == "we measure memorisation" and found["contaminated"] == 3
    assert streaming or any("we measure memorisation" in line for line in run.said)


def test_clean_rows_pass_whatever_the_action(tmp_path):
    rows = prompts(0, CLEAN)
    assert apply_gate(run_in(tmp_path), rows, config()) is rows
    assert json.loads((tmp_path / "contamination.json").read_text())["contaminated"] == 0
    assert not (tmp_path / "contaminated.jsonl").exists()
    assert apply_gate(run_in(tmp_path), rows, None) is rows


def test_every_process_decides_the_same_and_the_main_one_writes(tmp_path):
    rows = prompts(0, [*CLEAN, *EVALUATION])
    for main in (True, False):
        folder = tmp_path / str(main)
        folder.mkdir()
        assert len(apply_gate(run_in(folder, main), rows, config(action="drop"))) == 4
        assert bool(list(folder.iterdir())) == main


def test_the_card_says_what_counted(tmp_path):
    apply_gate(run_in(tmp_path), prompts(0, CLEAN), config(overlap=0.5))
    message = card._describe_contamination(json.loads((tmp_path / "contamination.json").read_text()))
    assert "None of them share 10 words in a row with one of theirs (50% of its n-grams or more)" in message[1]
    gone = ContaminationConfig([DatasetConfig("gone.jsonl")], action="waive", reason="secret", near=0.6)
    apply_gate(run_in(tmp_path), prompts(0, EVALUATION), gone)
    message = card._describe_contamination(json.loads((tmp_path / "contamination.json").read_text()))
    assert message[1] == "Not compared, because they could not be loaded: gone.jsonl."


@pytest.mark.parametrize("part", [0, 1])
def test_of_the_parts_of_an_array_the_first_writes(tmp_path, part):
    assert len(apply_gate(run_in(tmp_path, part=part), prompts(0, [*CLEAN, *EVALUATION]), config(action="drop"))) == 4
    assert bool(list(tmp_path.iterdir())) == (part == 0)


def test_a_second_start_does_not_list_rows_twice(tmp_path):
    for _ in range(2):
        apply_gate(run_in(tmp_path), prompts(0, EVALUATION + CLEAN), config(action="drop"))
    assert len((tmp_path / "contaminated.jsonl").read_text().splitlines()) == 3


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="none is left"):
        apply_gate(run_in(tmp_path), prompts(0, EVALUATION), config(action="drop"))


def test_rows_of_a_data_task_keep_their_numbers(tmp_path, write_recipe):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in [*CLEAN, *EVALUATION, *CLEAN]))
    recipe = load_recipe(write_recipe("sample", datasets=[{"path": str(source)}] * 2), planned=True)
    left = apply_gate(run_in(tmp_path), load_rows(recipe), config(action="drop"))
    assert left.numbers(0, 99).tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 18, 19, 20, 21]
    listed = [json.loads(line)["row"] for line in (tmp_path / "contaminated.jsonl").read_text().splitlines()]
    assert listed == [4, 5, 6, 15, 16, 17]


@pytest.mark.parametrize("streaming", [False, True])
def test_check_finds_the_same_and_writes_nothing(tmp_path, streaming):
    rows = prompts(0, [*CLEAN, *EVALUATION])
    recipe = SimpleNamespace(seed=0, data=SimpleNamespace(contamination=config()))
    tally = preview_gate(recipe, rows.to_iterable_dataset() if streaming else rows)
    assert tally.contaminated == 3 and "3 of 7 rows" in tally.format_summary() and len(tally.format_first()) == 3
    assert not list(tmp_path.iterdir())


def test_a_set_that_cannot_be_loaded(tmp_path):
    missing = [DatasetConfig("aime24"), DatasetConfig(str(tmp_path / "gone.jsonl")), DatasetConfig("aime25s")]
    for source, words in zip(missing, ["aime24.jsonl", "gone.jsonl", "did you mean 'aime25'"], strict=True):
        with pytest.raises(RecipeError) as refused:
            Gate(ContaminationConfig([source]), 0)
        message = str(refused.value)
        assert f"contamination.against ({source.path})" in message and "waive" in message and words in message
    waived = ContaminationConfig([missing[1], *config().against], action="waive", reason="the set is secret")
    run = run_in(tmp_path)
    apply_gate(run, prompts(0, EVALUATION), waived)
    found = json.loads((tmp_path / "contamination.json").read_text())
    assert list(found["missing"]) == [str(tmp_path / "gone.jsonl")] and found["contaminated"] == 3
    assert any("gone.jsonl is not compared" in line for line in run.said)


def test_a_set_without_the_column_or_with_filters_and_few_rows():
    source = DatasetConfig("test_contamination:prompts", args={"texts": EVALUATION, "column": "problem"})
    with pytest.raises(RecipeError, match="'prompt' is missing; it has problem"):
        Gate(ContaminationConfig([source]), 0)
    source.columns, source.filters, source.rows = {"prompt": "problem"}, {"problem": {"matches": "bolts|sum"}}, 1
    assert Gate(ContaminationConfig([source]), 0).texts == EVALUATION[:1]
    source.template = {"prompt": "{problem}"}
    with pytest.raises(RecipeError, match="template"):
        Gate(ContaminationConfig([source]), 0)


def test_two_splits_of_one_source_are_told_apart():
    two = [*config(EVALUATION[:1]).against, *config(EVALUATION[2:]).against]
    two[1].split = "test"
    gate = Gate(ContaminationConfig(two), 0)
    assert gate.sizes == {"test_contamination:prompts": 1, "test_contamination:prompts (default, test)": 1}
    assert [hit.set for hit in gate.find_hits([EVALUATION[2]])] == ["test_contamination:prompts (default, test)"]


def test_a_benchmark_is_named_and_its_problems_alone_are_compared(monkeypatch):
    """All of its sources, by its own filters and the recipe's, without the words that its templates put around."""
    rows = [{"q": text, "year": year, "level": 1} for year, text in enumerate(EVALUATION, start=2022)]
    part = {"path": "test_contamination:rows", "columns": {"prompt": "q"}, "template": {"prompt": "Hint: {prompt}"}}
    sources = [
        part | {"args": {"rows": rows}, "filters": {"year": {"min": 2023}}},
        part | {"args": {"rows": [{"q": CLEAN[0], "year": 2030, "level": 2}]}},
    ]
    monkeypatch.setattr(registry, "list_benchmarks", lambda: ["contest"])
    monkeypatch.setattr(registry, "find_benchmark", lambda name: {"name": name, "datasets": sources})
    assert Gate(ContaminationConfig([DatasetConfig("contest")]), 0).texts == [*EVALUATION[1:], CLEAN[0]]
    some = DatasetConfig("contest", filters={"level": 1}, rows=1)
    assert Gate(ContaminationConfig([some]), 0).texts == EVALUATION[1:2]


def rows(seed: int, rows: list[dict[str, object]]) -> datasets.Dataset:
    """A source with any columns, as `test_contamination:rows`."""
    return datasets.Dataset.from_list(rows)


def test_the_miniature_is_a_benchmark_to_be_kept_out():
    gate = Gate(ContaminationConfig([DatasetConfig("tiny")], ngram=40), 0)
    assert gate.sizes == {"tiny": 200}
    hit, miss = gate.find_hits([gate.texts[0], EVALUATION[0]])
    assert hit.how == "whole" and miss is None


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"against": []}, "contamination.against"),
        ({"ngram": 0}, "contamination.ngram"),
        ({"near": 1.5}, "contamination.near"),
        ({"action": "ignore"}, "contamination.action"),
        ({"action": "waive"}, "contamination.reason"),
        ({"ngrams": 8}, "did you mean 'ngram'"),
    ],
)
def test_recipes_with_wrong_values_are_refused(write_recipe, keys, message):
    given = {"against": ["math500"]} | keys
    with pytest.raises(RecipeError, match=message.replace(".", r"\.")):
        load_recipe(write_recipe("mix", contamination=given), planned=True)


def test_gsm8k_test_problems_planted_in_its_training_set(tmp_path):
    test = DatasetConfig(str(shared("gsm8k", "test.jsonl")), columns={"prompt": "question"})
    train = load_source(DatasetConfig(str(shared("gsm8k", "train.jsonl"))), 0)["question"][:2000]
    problems = contamination.load_prompts(test, 0)
    pick = random.Random(0)
    places = sorted(pick.sample(range(2000), 40))
    rows = list(train)
    for place in places:
        rows[place] = pick.choice([str, str.upper, lambda text: "  ".join(text.split())])(pick.choice(problems))
    gate = Gate(ContaminationConfig([test]), 0)
    before = {i for i, hit in enumerate(gate.find_hits(list(train))) if hit}
    assert len(before) < 12, "the two sets share a few sentences and no problem"
    after = {i for i, hit in enumerate(gate.find_hits(rows)) if hit and hit.overlap == 1}
    assert after == set(places)


def test_every_evaluation_problem_finds_itself():
    columns = {"math500": "problem", "aime24": "prompt", "aime25": "prompt", "amc23": "question"}
    for name, column in columns.items():
        source = DatasetConfig(str(shared("math", f"{name}.jsonl")), columns={"prompt": column})
        gate = Gate(ContaminationConfig([source]), 0)
        hits = gate.find_hits(gate.texts)
        assert all(hit is not None and hit.overlap > 0.5 for hit in hits), name
