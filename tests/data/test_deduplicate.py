"""The first of several equal rows stays, in whatever batches they come, and no text is held."""

from __future__ import annotations

import json
import multiprocessing
import random
import tracemalloc

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.config.loading import load_recipe
from open_r1.config.schema import DatasetConfig, DeduplicateConfig
from open_r1.data import deduplicate, ngrams
from open_r1.data.deduplicate import Deduplicator, drop_duplicates
from open_r1.data.rows import load_rows
from open_r1.data.sources import load_source
from open_r1.errors import RecipeError

PROBLEM = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips "
    "did Natalia sell altogether in April and May?"
)
REWORDED = PROBLEM.replace("friends", "classmates")
OTHER = (
    "Weng earns 12 dollars an hour for babysitting. Yesterday, she just did 50 minutes of babysitting. How much did "
    "she earn?"
)


def word(number: int) -> str:
    """A word of letters for each number: a digit within would be a word of its own."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def problems(count: int, seed: int = 0) -> list[str]:
    """Some new, some as they were in other case, some with a word replaced."""
    pick, texts = random.Random(seed), []
    for i in range(count):
        kind = pick.random()
        if i and kind < 0.2:
            texts.append(f" {pick.choice(texts).upper()} ")
        elif i and kind < 0.4:
            words = pick.choice(texts).split()
            words[pick.randrange(len(words))] = "another"
            texts.append(" ".join(words))
        else:
            texts.append(" ".join(word(pick.randrange(3000)) for _ in range(pick.randrange(3, 60))))
    return texts


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["a b", "A  b.", "a, c", "x+1", "x + 1", "", "?", "!", "a"]), max_size=40),
    st.integers(1, 9),
)
def test_exact_is_the_first_row_with_the_same_words(texts, size):
    seen, first, expected = Deduplicator(), {}, []
    for row, text in enumerate(texts):
        # A value that is missing repeats nothing.
        expected.append(first.setdefault(tuple(ngrams.split_words(text)) or text or row, row) != row)
    found = [row for begin in range(0, len(texts), size) for row in seen.find_repeats(texts[begin : begin + size])]
    assert found == expected
    assert seen.counts == {"exact": sum(expected), "near": 0}


@pytest.mark.parametrize("near", [None, 0.7, 0.9])
def test_the_result_does_not_depend_on_the_batches(near):
    texts = problems(1500)
    whole = Deduplicator(near=near)
    expected = whole.find_repeats(texts)
    for sizes in ([1], [7, 100, 3]):
        seen, found, pick = Deduplicator(near=near), [], random.Random(0)
        while len(found) < len(texts):
            found += seen.find_repeats(texts[len(found) : len(found) + pick.choice(sizes)])
        assert found == expected and seen.counts == whole.counts
    assert whole.counts["exact"] > 200 and (near is None or whole.counts["near"] > 50)


def test_near_is_counted_apart_from_exact():
    texts = [PROBLEM, OTHER, REWORDED, PROBLEM.upper(), REWORDED + "!", "one", "One.", "two"]
    seen = Deduplicator(near=0.7)
    assert seen.find_repeats(texts) == [False, False, True, True, True, False, True, False]
    assert seen.counts == {"exact": 3, "near": 1}
    alone = Deduplicator(exact=False, near=0.7)
    assert alone.find_repeats(texts[:5]) == [False, False, True, True, True]
    assert alone.counts == {"exact": 0, "near": 3}


def test_other_problems_are_no_near_duplicates():
    rows = load_source(DatasetConfig(str(shared("gsm8k", "test.jsonl"))), 0)
    seen = Deduplicator(near=0.8)
    seen.find_repeats(rows["question"][:])
    assert seen.counts["exact"] == 0 and seen.counts["near"] <= 5


def test_near_finds_what_is_alike_and_leaves_what_is_not():
    """Similarities are estimated from 64 values: 0.1 below or above the threshold is safe, at it is a coin toss."""
    pick = random.Random(0)

    def pair(replaced: int) -> tuple[str, str]:
        words = [word(pick.randrange(10**6)) for _ in range(60)]
        other = list(words)
        for i in pick.sample(range(0, 60, 3), replaced):
            other[i] = "other"
        return " ".join(words), " ".join(other)

    def found(replaced: int) -> float:
        texts = [text for _ in range(200) for text in pair(replaced)]
        return Deduplicator(near=0.7).find_repeats(texts)[1::2].count(False) / 200

    # Each word that is replaced takes two of about 59 pairs with it: similarity (59 - 2r) / (59 + 2r).
    assert found(2) <= 0.01 and found(3) <= 0.05 and found(10) >= 0.95 and found(13) == 1


def test_bands_grow_with_the_threshold_and_meet_often_enough():
    rows = [deduplicate.count_band_rows(near) for near in (0.05, 0.3, 0.5, 0.7, 0.9, 0.99)]
    assert rows == sorted(rows) and rows[0] == 1
    for near, size in zip((0.3, 0.5, 0.7, 0.9), rows[1:], strict=False):
        assert 1 - (1 - near**size) ** (deduplicate.PERMUTATIONS // size) >= deduplicate.RECALL


def test_sketches_estimate_the_similarity():
    words = [word(i) for i in range(201)]
    sketches = deduplicate.sketch_word_pairs([words, words[:151], words[::-1], ["one"]])
    assert abs((sketches[0] == sketches[1]).mean() - 0.75) < 0.2 and (sketches[0] == sketches[2]).mean() < 0.1
    assert (deduplicate.sketch_word_pairs([words[:151]])[0] == sketches[1]).all()


@pytest.mark.parametrize(("near", "most"), [(None, 150), (0.7, 2300)])
def test_memory_is_small_and_holds_no_text(near, most):
    numbers = [" ".join(str(i * k) for k in range(1, 30)) for i in range(3000)]
    texts = ["long words " * 200 + number for number in numbers]
    seen = Deduplicator(near=near)
    tracemalloc.start()
    for begin in range(0, len(texts), 100):
        seen.find_repeats(texts[begin : begin + 100])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = len(texts) - sum(seen.counts.values())
    assert kept > 2000 and held <= most * kept


def test_near_takes_as_long_per_row_where_all_rows_share_a_phrase(monkeypatch):
    """A row is compared with one sketch of each of its bands, not with all that share the band."""
    compared = []
    similarity = deduplicate.estimate_similarity
    monkeypatch.setattr(deduplicate, "estimate_similarity", lambda *pair: compared.append(0) or similarity(*pair))
    phrase = " ".join(word(10**6 + i) for i in range(20))
    texts = [f"{phrase} " + " ".join(word(10**7 + 40 * i + k) for k in range(20)) for i in range(400)]
    assert not any(Deduplicator(near=0.7).find_repeats(texts))
    assert 0 < len(compared) <= 400 * deduplicate.PERMUTATIONS // deduplicate.count_band_rows(0.7)


def test_rows_of_a_data_task_in_every_layout(tmp_path, write_recipe):
    """The first stays whatever the source and the form it is in; the rows keep their numbers and columns."""
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}] for text in (PROBLEM, OTHER)]
    layouts = {
        "pairs": [{"prompt": text, "completion": "no"} for text in (PROBLEM, PROBLEM.upper(), REWORDED)],
        "messages": [{"messages": conversation} for conversation in turns],
    }
    sources = []
    for name, rows in layouts.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources.append({"path": str(path)})
    for keys, numbers, counts in (
        ({}, [0, 2, 4], {"exact": 2, "near": 0}),
        ({"near": 0.7}, [0, 4], {"exact": 2, "near": 1}),
        ({"column": "completion"}, [0, 3], {"exact": 3, "near": 0}),
    ):
        recipe = load_recipe(write_recipe("mix", datasets=sources, deduplicate=keys), planned=True)
        left, repeated = drop_duplicates(load_rows(recipe), DeduplicateConfig(**keys))
        assert left.numbers(0, 99).tolist() == numbers and repeated == counts
        assert left.slice(0, 1)[0]["completion"] == "no" and left.slice(1, 99)[-1]["messages"] is not None
    rows = load_rows(recipe)
    assert drop_duplicates(rows, None) == (rows, None)
    with pytest.raises(RecipeError, match=r"datasets\.0 .*pairs\.jsonl\) has no 'text'"):
        drop_duplicates(rows, DeduplicateConfig(column="text"))


@pytest.mark.parametrize(("value", "text"), [
    (None, ""), ("a", "a"), ([], ""), (3, "3"), ({"b": 1, "a": [2]}, '{"a": [2], "b": 1}'), (["a", None, "b"], "a\nb"),
    ([{"role": "user", "content": "a"}, {"from": "gpt", "value": "b"}], "a\nb"),
])  # fmt: skip
def test_what_is_compared_of_a_value(value, text):
    assert deduplicate.read_compared_text(value) == text


def test_a_column_made_by_a_template(tmp_path, write_recipe):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"ask": ask, "with": "!", "completion": "c"}) + "\n" for ask in "aab"))
    source = {"path": str(path), "template": {"prompt": "{ask} {with}"}}
    recipe = load_recipe(write_recipe("mix", datasets=[source], deduplicate={}), planned=True)
    left, counts = drop_duplicates(load_rows(recipe), DeduplicateConfig())
    assert [row["prompt"] for row in left.slice(0, 9)] == ["a !", "b !"] and counts == {"exact": 1, "near": 0}


@pytest.mark.parametrize(
    "keys, message",
    [({"near": 1.0}, r"deduplicate\.near"), ({"near": 0}, r"deduplicate\.near"), ({"exact": False}, "neither")],
)
def test_recipes_with_wrong_values_are_refused(write_recipe, keys, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write_recipe("mix", deduplicate=keys), planned=True)


def _forked(results: multiprocessing.Queue) -> None:
    results.put(Deduplicator(near=0.7).find_repeats(problems(600)).count(False))


def test_near_works_in_a_forked_process_after_it_was_used_here():
    """A data loader's workers are forks, and the threads of rensa would not be there."""
    expected = Deduplicator(near=0.7).find_repeats(problems(600)).count(False)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_forked, args=(results,))
    child.start()
    try:
        assert results.get(timeout=30) == expected
    finally:
        child.kill()
        child.join()
