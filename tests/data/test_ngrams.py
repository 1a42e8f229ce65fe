"""Texts as words: what is the same, what is not, and numpy against a plain loop."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_r1.data import ngrams

THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\?,(?:\\!)?)(?=\d{3}(?!\d))")
PIECES = [
    "a", "Bc", "word", "abcdefgh", "abcdefghi", "antidisestablishmentarianism", "x" * 70, "7", "12", "000", "1,000",
    "1{,}000", "1\\,000", "2,\\!500", ",", "{,}", "\\,", "\\!", "+", "-", "=", "^", "*", ".", "?", "(", "{", "}",
    "\\frac", "\\dfrac", "\\left(", "\\right)", "\\text{", "\\cdot", "\\\\", "\\", "$", "_", " ", "  ", "\n", "\t",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def plain_words(text: str) -> list[str]:
    """The same for ASCII, one text and one expression at a time."""
    text = THOUSANDS.sub("", text.lower())
    found = re.findall(r"\\[a-z]+|[a-z]+|\d+|[-+*/=<>^]", text)
    return [ngrams._SAME.get(word, word) for word in found if word not in ngrams._SILENT.split()]


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_a_batch_is_cut_like_each_text_by_a_plain_loop(texts):
    (cut,) = ngrams.batches(texts)
    assert [cut.of(row) for row in range(len(texts))] == [plain_words(text) for text in texts]


@given(st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_any_unicode_is_cut_alone_as_in_a_batch(texts):
    (cut,) = ngrams.batches(texts)
    assert [cut.of(row) for row in range(len(texts))] == [ngrams.words(text) for text in texts]


@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(1, 12))
def test_ngrams_have_the_same_hash_exactly_if_they_have_the_same_words(texts, n):
    (cut,) = ngrams.batches(texts)
    index, counts = cut.windows(n)
    hashes = iter(ngrams.ngram_hashes(cut.hashes, n)[index].tolist())
    seen: dict[tuple[str, ...], int] = {}
    for row, text in enumerate(texts):
        words = plain_words(text)
        runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        assert counts[row] == len(runs)
        for run in runs:
            assert seen.setdefault(run, value := next(hashes)) == value
    assert len(set(seen.values())) == len(seen)


@given(st.lists(TEXTS, min_size=2, max_size=8))
def test_fingerprints_are_the_same_exactly_if_the_words_are(texts):
    (cut,) = ngrams.batches(texts)
    prints = ngrams.fingerprints(cut).tolist()
    some = np.array([len(texts) - 1, 0])
    assert ngrams.fingerprints(cut, some).tolist() == [prints[-1], prints[0]]
    for i, left in enumerate(texts):
        for j, right in enumerate(texts):
            assert (prints[i] == prints[j]) == (plain_words(left) == plain_words(right))


def test_fingerprints_of_two_words_in_thue_morse_order_differ():
    """A polynomial modulo 2^64 cannot tell these two apart, whatever its base."""
    bits = [bin(i).count("1") % 2 for i in range(4096)]
    texts = [" ".join("ab"[bit] for bit in bits), " ".join("ba"[bit] for bit in bits)]
    (cut,) = ngrams.batches(texts)
    assert len(set(ngrams.ngram_hashes(cut.hashes, 4096)[[0, 4097]].tolist())) == 1
    assert len(set(ngrams.fingerprints(cut).tolist())) == 2


@pytest.mark.parametrize(
    "left, right",
    [
        ("How many?", "  how\nMANY "),
        ("$x+1$", "\\( x + 1 \\)"),
        ("\\dfrac{1}{2}", "\\frac 1 2"),
        ("\\left( x+1 \\right)^2", "(x+1)^{2}"),
        ("$3\\,\\text{cm}$", "3 cm"),
        ("a\\quad b~c", "a b c"),
        ("\\displaystyle\\mathrm{d}x", "d x"),
        ("3 \\cdot 4 \\times 5", "3*4*5"),
        ("x \\le 3", "x ≤ 3"),
        ("1,234,567 or 1{,}000 or 1\\,000 or 2,\\!500", "1234567 or 1000 or 1000 or 2500"),
        ("2x", "2 x"),
        ("x² and 10²", "x^2 and 10^2"),
        ("don’t “stop” – now", 'don\'t "stop" - now'),
        ("½ × 3 − 1", "1/2 * 3 - 1"),
        ("Ａｂｃ１２", "abc12"),
        ("STRASSE CAFÉ", "straße cafe\u0301"),
        ("co\u00adoperate wo\u200brd", "cooperate word"),
        ("٣ apples", "3 apples"),
        ("解方程 x+1=2", "解 方程x + 1 = 2。"),
        ("half \ud800 a pair", "half ? a pair"),
        ("zero\0byte", "zero byte"),
    ],
)
def test_the_same(left, right):
    assert ngrams.words(left) == ngrams.words(right) != []


@pytest.mark.parametrize(
    "left, right",
    [
        ("1,000", "1,0000"),
        ("(1,200)", "(1, 200)"),
        ("x + 1", "x - 1"),
        ("12", "1 2"),
        ("10²", "102"),
        ("\\sin x", "sin x"),
        ("\\frac{1}{2}", "1 2"),
        ("解方程", "解方成"),
        ("x^2", "x 2"),
    ],
)
def test_not_the_same(left, right):
    assert ngrams.words(left) != ngrams.words(right)


@pytest.mark.parametrize("text", ["", " \n", "?!.", "$$", "\\left\\right", "\0", "😀"])
def test_texts_without_a_word(text):
    assert ngrams.words(text) == []
    (cut,) = ngrams.batches(["a b", text, "c"])
    assert cut.counts.tolist() == [2, 0, 1]


def test_long_texts_and_many_texts_come_in_batches_of_bounded_size():
    pick = random.Random(0)
    texts = [f"row {i} " + "word " * pick.choice([1, 10, 20_000]) for i in range(1200)]
    cuts = list(ngrams.batches(texts))
    assert max(len(cut.codes) for cut in cuts) < 1.1 * ngrams.CHARACTERS
    assert [cut.of(row)[1] for cut in cuts for row in range(len(cut.counts))] == [str(i) for i in range(1200)]
