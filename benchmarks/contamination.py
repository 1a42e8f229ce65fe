"""The contamination gate: rows per second beside open-r1's loop, what it finds, and what it misses.

    python benchmarks/contamination.py [--data ../shared/data] [--hits 0]

Training prompts of GSM8K and MATH are compared with GSM8K test, MATH-500, AIME24 and AIME25, from a folder with
gsm8k/*.jsonl and math/*.json(l). The loop of open-r1's decontaminate.py splits each row in lower case on white space
and looks up all of its n-grams, once for each evaluation set.

One process, one thread; the loop and the gate take turns, and each figure is the median of its turns in seconds of the
processor. Recall is measured on evaluation prompts that are changed in the ways named and compared by the gate.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import statistics
import string
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import record

from open_r1.config.schema import ContaminationConfig, DatasetConfig
from open_r1.data.contamination import Gate, load_prompts
from open_r1.data.deduplicate import Deduplicator
from open_r1.data.sources import load_source

TURNS = 7
TRAIN = {
    "GSM8K train": ("gsm8k/train.jsonl", "question"),
    "MATH train": ("math/math_train.json", "problem"),
}
EVALUATION = {
    "GSM8K test": ("gsm8k/test.jsonl", "question"),
    "MATH-500": ("math/math500.jsonl", "problem"),
    "AIME24": ("math/aime24.jsonl", "prompt"),
    "AIME25": ("math/aime25.jsonl", "prompt"),
}


def sources(folder: Path) -> list[DatasetConfig]:
    return [DatasetConfig(str(folder / path), columns={"prompt": column}) for path, column in EVALUATION.values()]


def split_ngrams(text: str, n: int) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def build_loop(evaluation: list[list[str]], n: int) -> Callable[[list[str]], int]:
    """open-r1's loop, as a function that counts the rows with a hit."""
    lookups = [set().union(*(split_ngrams(text, n) for text in texts)) for texts in evaluation]

    def count(texts: list[str]) -> int:
        found = set()
        for lookup in lookups:
            for i, text in enumerate(texts):
                ngrams = split_ngrams(" ".join(text.split()), n)
                if any({ngram in lookup for ngram in ngrams}):  # noqa: C419, as it is there
                    found.add(i)
        return len(found)

    return count


def speed(train: dict[str, list[str]], against: list[DatasetConfig], n: int) -> dict[str, dict[str, float]]:
    """Rows a second of the gate and of open-r1's loop, for each training set."""
    gate = Gate(ContaminationConfig(against, ngram=n), 0)
    ways: dict[str, Callable[[list[str]], int]] = {
        "gate": lambda texts: sum(hit is not None for hit in gate.find_hits(texts)),
        "open-r1": build_loop([load_prompts(source, 0) for source in against], n),
    }
    found = {}
    for name, texts in train.items():
        times: dict[str, list[float]] = {way: [] for way in ways}
        hits = {}
        for _ in range(TURNS):
            for way, count in ways.items():
                began = time.process_time()
                hits[way] = count(texts)
                times[way].append(time.process_time() - began)
        rates = {way: len(texts) / statistics.median(times[way]) for way in ways}
        ratio = statistics.median(b / a for a, b in zip(times["gate"], times["open-r1"], strict=True))
        found[name] = {"rows": len(texts), "hits": hits["gate"], **rates, "ratio": ratio}
        listed = ", ".join(f"{way} {rates[way]:,.0f} rows/s ({hits[way]} hits)" for way in ways)
        print(f"{name}, n = {n}: {listed}; gate / open-r1 {ratio:.1f}", flush=True)
    return found


def findings(train: dict[str, list[str]], against: list[DatasetConfig], n: int, listed: int) -> None:
    gate = Gate(ContaminationConfig(against, ngram=n), 0)
    named = dict(zip((source.path for source in against), EVALUATION, strict=True))
    for name, texts in train.items():
        hits = [(hit, text) for hit, text in zip(gate.find_hits(texts), texts, strict=True) if hit]
        by_set = Counter(named[hit.set] for hit, _ in hits)
        overlaps = [sum(hit.overlap >= bound for hit, _ in hits) for bound in (0.9, 0.5, 0.2, 0)]
        print(
            f"{name}, n = {n}: {len(hits)} of {len(texts)} rows {dict(by_set)}; with at least 90%, 50%, 20% and any "
            f"of an evaluation prompt's n-grams: {overlaps}"
        )
        for hit, text in sorted(hits, key=lambda pair: -pair[0].overlap)[:listed]:
            print(
                f"  {hit.overlap:.0%} {named[hit.set]} {hit.row}: {hit.words!r}\n    {text[:200]!r}\n    {hit.text!r}"
            )


def respaced(text: str, pick: random.Random) -> str:
    """Other white space everywhere, and other case where no LaTeX command is."""
    spaced = "".join(word + pick.choice([" ", "  ", "\n", "\t", " \u00a0", "\u2009"]) for word in text.split())
    return spaced if "\\" in text else pick.choice([str.upper, str.lower, str.title])(spaced)


def relatexed(text: str, pick: random.Random) -> str:
    """The same mathematics in other delimiters, spacing, sizes, fractions and thousands."""
    delimiters = pick.choice(["$%s$", "\\(%s\\)", "$ \\displaystyle %s $", "\\[ %s \\]"])
    text = re.sub(r"\$([^$]+)\$", lambda found: delimiters % found[1], text)
    text = text.replace("\\frac", "\\dfrac") if pick.random() < 0.5 else text.replace("\\dfrac", "\\frac")
    space = r" ?([+=<>]) ?"
    text = re.sub(space, lambda f: pick.choice([f[1], f" {f[1]} ", f"\\,{f[1]}\\,", f" {f[1]}~"]), text)
    text = re.sub(r"(?<!\\left)\(([^()\\]*)\)", r"\\left(\1\\right)", text)
    comma = pick.choice([",", "{,}", "\\,"])
    number = r"\b\d{1,3}(?:,\d{3})+\b|\b\d{4,}\b"
    return re.sub(number, lambda found: f"{int(found[0].replace(',', '')):,}".replace(",", comma), text)


SYNONYMS = {
    "how many": "what number of", "find": "determine", "what is": "compute", "total": "overall", "each": "every",
    "buys": "purchases", "bought": "purchased", "does": "will", "has": "owns", "there are": "we have", "let": "take",
    "if": "suppose", "gives": "hands", "money": "cash", "makes": "produces", "needs": "requires", "value": "size",
    "more": "additional", "day": "workday", "left": "remaining", "sells": "trades", "wants": "wishes", "house": "home",
    "spends": "pays", "costs": "is priced at", "such that": "so that", "integers": "whole numbers",
}  # fmt: skip


def paraphrased(text: str, pick: random.Random, substitutions: int) -> str:
    """A few words substituted, numbers kept: synonyms where there are some, else a word left out."""
    for word in pick.sample(sorted(SYNONYMS), len(SYNONYMS)):
        if substitutions and re.search(rf"\b{word}\b", text, re.I):
            text = re.sub(rf"\b{word}\b", SYNONYMS[word], text, count=1, flags=re.I)
            substitutions -= 1
    words = text.split()
    for _ in range(substitutions):
        if len(words) > 8:
            del words[pick.randrange(len(words))]
    return " ".join(words)


def every_few_words(text: str, pick: random.Random, step: int) -> str:
    """One word in `step` replaced, so that no 10-gram is left if `step` is at most 10; numbers kept."""
    words = text.split()
    for i in range(pick.randrange(step), len(words), step):
        if words[i].isalpha():
            words[i] = "".join(pick.choice(string.ascii_lowercase) for _ in words[i])
    return " ".join(words)


def reordered(text: str, pick: random.Random) -> str:
    """Sentences in another order."""
    sentences = re.split(r"(?<=[.?!])\s+", text)
    pick.shuffle(sentences)
    return " ".join(sentences)


def renumbered(text: str, pick: random.Random) -> str:
    """Every number another."""
    return re.sub(r"\d+", lambda m: str(pick.randrange(2, 10 ** len(m[0]) + 2)), text)


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "exact": lambda text, pick: text,
    "inside other text": lambda text, pick: f"Solve this. {text} Show your work.",
    "white space and case": respaced,
    "LaTeX spacing": relatexed,
    "2 words substituted": lambda text, pick: paraphrased(text, pick, 2),
    "4 words substituted": lambda text, pick: paraphrased(text, pick, 4),
    "sentences reordered": reordered,
    "1 word in 9 replaced": lambda text, pick: every_few_words(text, pick, 9),
    "1 word in 6 replaced": lambda text, pick: every_few_words(text, pick, 6),
    "numbers changed": renumbered,
}


def recall(against: list[DatasetConfig], nears: list[float]) -> dict[str, dict[str, float]]:
    """The share of planted prompts that each gate finds, for each change."""
    texts = [text for source in against for text in load_prompts(source, 0)]
    gates = {"10-grams": Gate(ContaminationConfig(against), 0)} | {
        f"and near {near}": Gate(ContaminationConfig(against, near=near), 0) for near in nears
    }
    print(f"recall on {len(texts)} evaluation prompts, each planted once:")
    found = {}
    for change, make in CHANGES.items():
        planted = [make(text, random.Random(i)) for i, text in enumerate(texts)]
        shares = {
            name: sum(hit is not None for hit in gate.find_hits(planted)) / len(texts) for name, gate in gates.items()
        }
        found[change] = shares
        print(f"  {change:<24}" + ", ".join(f"{name} {share:.4f}" for name, share in shares.items()), flush=True)
    return found


def false_alarms(train: dict[str, list[str]], against: list[DatasetConfig], near: float, listed: int) -> None:
    """What `near` adds to the 10-grams on training prompts, to be read."""
    gate = Gate(ContaminationConfig(against, near=near), 0)
    for name, texts in train.items():
        began = time.process_time()
        hits = gate.find_hits(texts)
        rate = len(texts) / (time.process_time() - began)
        added = [(hit, text) for hit, text in zip(hits, texts, strict=True) if hit and hit.how == "near"]
        print(f"{name}: near {near} adds {len(added)} rows, at {rate:,.0f} rows/s")
        for hit, text in added[:listed]:
            print(f"  {hit.overlap}: {text[:160]!r}\n       {hit.text[:160]!r}")


def deduplication(rows: int) -> None:
    """Synthetic prompts, one in ten a repetition and one in ten a near one, through each kind of deduplication."""
    words = ["".join(letters) for letters in itertools.product("bcdfgp", "aeiou", "lmnrst", "aeiou")]
    pick = random.Random(0)
    texts: list[str] = []
    for i in range(rows):
        kind = i % 10
        if kind == 8 and texts:
            texts.append(pick.choice(texts).upper())
        elif kind == 9 and texts:
            changed = pick.choice(texts).split()
            changed[pick.randrange(len(changed))] = "other"
            texts.append(" ".join(changed))
        else:
            texts.append(" ".join(pick.choices(words, k=45)))
    for name, near in (("exact", None), ("exact and near 0.7", 0.7)):
        deduplicator = Deduplicator(exact=True, near=near)
        before, began = read_memory(), time.process_time()
        for begin in range(0, rows, 1000):
            deduplicator.find_repeats(texts[begin : begin + 1000])
        taken, held = time.process_time() - began, read_memory() - before
        kept = rows - sum(deduplicator.counts.values())
        print(
            f"deduplication, {name}, {rows:,} rows: {rows / taken:,.0f} rows/s, {deduplicator.counts}, "
            f"{held / kept:.0f} bytes for each row kept"
        )


def read_memory() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    beside = Path(__file__).parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=beside)
    parser.add_argument("--hits", type=int, default=0, help="hits listed for each training set")
    parser.add_argument("--rows", type=int, default=200_000, help="synthetic rows for the deduplication")
    arguments = parser.parse_args()
    deduplication(arguments.rows)
    if not arguments.data.is_dir():
        parser.exit(2, f"{arguments.data} is not there; name a folder with gsm8k and math by --data\n")
    train = {}
    for name, (path, column) in TRAIN.items():
        train[name] = list(load_source(DatasetConfig(str(arguments.data / path)), 0)[column])
    against = sources(arguments.data)
    speeds = {}
    for n in (10, 8):
        speeds[f"{n}-grams"] = speed(train, against, n)
        findings(train, against, n, arguments.hits)
    record.store("contamination", speed=speeds, recall=recall(against, [0.7, 0.6, 0.5]))
    for near in (0.7, 0.6, 0.5):
        false_alarms(train, against, near, arguments.hits)


if __name__ == "__main__":
    main()
