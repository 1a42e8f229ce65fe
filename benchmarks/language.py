"""What the language and shape rewards cost on a completion of about 32,000 tokens, and lingua on its first use.

    python benchmarks/language.py

The text is drawn from a few sentences such as reasoning is made of. One process, one thread. Printed: the median of
ten calls in milliseconds, and what loading lingua takes.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import record

from open_r1.rewards.format import tag_count, think_answer_format, think_format
from open_r1.rewards.language import measure_language
from open_r1.rewards.repetition import reasoning_steps, repetition

LETTERS = {"en": 110_000, "zh": 55_000}  # about 32,000 tokens of Qwen2.5
SENTENCES = {
    "en": [
        "Let me check whether the sum of the first three terms is really divisible by seven.",
        "Wait, that cannot be right, because the remainder of \\(2^{10}\\) is one.",
        "So the second train leaves an hour later and catches up with the first one after $t = 3$ hours.",
        "First, we write the equation down and move everything to the left side.",
    ],
    "zh": [
        "我们先检查前三项的和是否真的能被七整除。",
        "等等，这不对，因为\\(2^{10}\\)的余数是一。",
        "所以第二列火车晚一个小时出发。",
    ],
}


def reasoning(language: str) -> str:
    pick, words = random.Random(0), []
    while sum(map(len, words)) < LETTERS[language]:
        words.append(pick.choice(SENTENCES[language]))
    return f"<think>{' '.join(words)}</think>\n<answer>7</answer>"


def milliseconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(10):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def memory() -> float:
    """Resident memory of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    texts = {language: reasoning(language) for language in SENTENCES}
    before, began = memory(), time.perf_counter()
    measure_language(texts["en"], "en")
    took = time.perf_counter() - began
    assert "lingua" in sys.modules
    found: dict[str, dict[str, float]] = {"lingua": {"seconds": took, "megabytes": memory() - before}}
    print(f"first use of lingua: {took:.2f} s, {memory() - before:.0f} MB")
    for language, text in texts.items():
        for target in SENTENCES:
            took = milliseconds(lambda text=text, target=target: measure_language(text, target))
            found.setdefault("milliseconds", {})[f"language_share of {target}, {language}"] = took
            print(f"language_share of {target} in {len(text):,} characters of {language}: {took:.1f} ms")
        for scorer in (think_format, think_answer_format, tag_count, repetition, reasoning_steps):
            took = milliseconds(lambda text=text, scorer=scorer: scorer(text))
            found["milliseconds"][f"{scorer.__name__}, {language}"] = took
            print(f"{scorer.__name__}, {language}: {took:.2f} ms")
    record.store("language", **found)


if __name__ == "__main__":
    main()
