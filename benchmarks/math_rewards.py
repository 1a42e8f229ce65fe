"""Speed and verdicts of our `accuracy` against TRL's `accuracy_reward` (open-r1's is the same) on real responses.

    python benchmarks/math_rewards.py [--data DIR] [--rows N]

One run judges every row with both, one after the other in one thread, and prints the median and the mean time per
completion by the clock and of CPU, their ratios, and every row where the verdicts differ. TRL's gold gets the dollar
signs without which it cannot read many. Then: what more workers bring on the answers that need Math-Verify, and by how
much one hanging completion delays a batch. `--data` holds outputs/*.json, math/* and oracle/math.jsonl. `--labelled`
only counts the verdicts on the labelled pairs of oracle/math.jsonl that agree with the labels: ours, and those of
Math-Verify alone, with and without the dollar signs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import record

from open_r1.rewards.math.exact import parse
from open_r1.rewards.math.exact.compare import are_equal
from open_r1.rewards.math.extraction import extract_answer, extract_answer_part, extract_gold
from open_r1.rewards.math.scorers import accuracy
from open_r1.system import worker_pool

RESPONSES = {
    "r1_gsm8k.json": "deepseek-reasoner (question)",
    "r1_distill_qwen_gsm8k.json": "model_answer",
    "r1_math.json": "deepseek-reasoner (question)",
}
HANGING = ["9^{9^9}", "9^{9^9} + 1", r"\frac{10000000!}{7}", r"\binom{100000000}{50000000}", r"1.5\cdot 10^{10^{10}}"]
Row = tuple[str, str]  # completion, gold answer


def real_rows(data: Path) -> list[Row]:
    rows = []
    for name, key in RESPONSES.items():
        rows += [(row[key], extract_gold(row["answer"])) for row in json.loads((data / "outputs" / name).read_text())]
    return rows


def gold_rows(data: Path, every: int = 5) -> list[Row]:
    """Gold answers of MATH, MATH-500, AIME and AMC, each against itself and against the next: right and wrong ones."""
    rows = [str(row["answer"]) for row in json.loads((data / "math" / "math_train.json").read_text())]
    rows += [str(row["answer"]) for row in json.loads((data / "math" / "aime_1983_2023.json").read_text())]
    for name in ("math500", "aime24", "aime25", "amc23"):
        lines = (data / "math" / f"{name}.jsonl").read_text().splitlines()
        rows += [str(json.loads(line).get("answer", "")) for line in lines]
    golds = [gold for gold in rows[::every] if gold]
    pairs = [*zip(golds, golds, strict=True), *itertools.pairwise(golds)]
    return [(f"so</think> The answer is $\\boxed{{{answer}}}$.", gold) for answer, gold in pairs]


def oracle_rows(data: Path) -> list[Row]:
    lines = (data / "oracle" / "math.jsonl").read_text().splitlines()
    return [(row["answer"], row["gold"]) for row in map(json.loads, lines)]


def trl(completion: str, gold: str) -> float | None:
    from trl.rewards import accuracy_reward

    solution = gold if "$" in gold or "\\boxed" in gold else f"${gold}$"
    return accuracy_reward([[{"role": "assistant", "content": completion}]], [solution])[0]


def ours(completion: str, gold: str) -> float | None:
    return accuracy(completion, gold).score


class Times(NamedTuple):
    """Of each row: seconds by the clock, seconds of this process's CPU (without the workers'), score."""

    wall: list[float]
    cpu: list[float]
    scores: list[float | None]


def timed(judge: Callable[[str, str], float | None], rows: list[Row]) -> Times:
    times = Times([], [], [])
    for row in rows:
        wall, cpu = time.perf_counter(), time.process_time()
        times.scores.append(judge(*row))
        times.cpu.append(time.process_time() - cpu)
        times.wall.append(time.perf_counter() - wall)
    return times


def compare(name: str, rows: list[Row]) -> dict[str, float]:
    """Microseconds of a completion by the clock, and how many times ours TRL's are."""
    judges = {"TRL": trl, "ours": ours}
    for judge in judges.values():  # imports, compiled patterns, the pool's start
        judge("<think>x</think> \\boxed{\\sin(x)}", "\\cos(x)")
    parse.parse_answer.cache_clear()
    theirs, own = (timed(judge, rows) for judge in judges.values())
    pairs = [(extract_answer(completion), extract_gold(gold)) for completion, gold in rows]
    left = sum(bool(answer) and are_equal(answer, gold) is None for answer, gold in pairs)
    print(f"\n{name}: {len(rows)} rows, of which ours leaves {left} to Math-Verify or to a guard")
    stored = {}
    for clock in ("cpu", "wall"):
        them, us = getattr(theirs, clock), getattr(own, clock)
        for label, seconds in (("TRL", them), ("ours", us)):
            median, mean = statistics.median(seconds) * 1e6, statistics.mean(seconds) * 1e6
            stored |= {f"{label}_median_us": median, f"{label}_mean_us": mean}
            print(
                f"  {clock:4} {label:4}  median {median:9.1f} us   mean {mean:9.1f} us   slowest {max(seconds):.3f} s"
            )
        medians, means = statistics.median(them) / statistics.median(us), statistics.mean(them) / statistics.mean(us)
        stored |= {"median_ratio": medians, "mean_ratio": means}
        print(f"  {clock:4} TRL / ours: {medians:.0f} at the median, {means:.0f} in the mean")
    differ = [i for i in range(len(rows)) if theirs.scores[i] != own.scores[i]]
    print(f"  verdicts differ on {len(differ)}")
    for i in differ:
        completion, gold = rows[i]
        scores = f"TRL {theirs.scores[i]}, ours {own.scores[i]}"
        print(f"    {scores}: gold {gold[-60:]!r}, ours reads {extract_answer(completion)[:60]!r}")
    return {"rows": len(rows)} | stored


def labelled(path: Path) -> dict[str, dict[str, int]]:
    """For each judge: labelled pairs judged as their label says, and wrong answers that were accepted."""
    from math_verify import parse, verify

    def alone(answer: str, gold: str, quoted: bool) -> bool:
        golden, given = (
            f"${text}$" if quoted and not re.search(r"\$|boxed", text) else text for text in (gold, answer)
        )
        return verify(parse(golden), parse(given))

    judges: dict[str, Callable[[str, str], float | bool | None]] = {
        "ours": ours,
        "math_verify": lambda answer, gold: alone(answer, gold, False),
        "math_verify_quoted": lambda answer, gold: alone(answer, gold, True),
    }
    logging.disable(logging.ERROR)  # Math-Verify logs every text that it cannot read
    rows, found = [json.loads(line) for line in path.read_text().splitlines()], {}
    for name, judge in judges.items():
        accepted = [judge(row["answer"], row["gold"]) for row in rows]
        falsely = sum(correct == 1 and not row["equal"] for correct, row in zip(accepted, rows, strict=True))
        agree = sum(correct == row["equal"] for correct, row in zip(accepted, rows, strict=True))
        found[name] = {"agree": agree, "falsely_accepted": falsely}
    return found | {"pairs": {"all": len(rows), "wrong": sum(not row["equal"] for row in rows)}}


def scaling(rows: list[Row]) -> None:
    """Throughput of the answers that exact.py leaves to Math-Verify, by workers."""
    pairs = [(extract_answer(completion), extract_gold(gold)) for completion, gold in rows]
    pairs = [(a, g) for a, g in pairs if a and len(a) < parse.LENGTH and are_equal(a, g) is None][:60]
    for workers in sorted({1, 2, worker_pool.count_cores()}):
        with_workers = worker_pool.Pool(workers)

        def judge(pair: Row, workers: worker_pool.Pool = with_workers) -> None:
            with contextlib.suppress(worker_pool.LimitReached, worker_pool.CallFailed):
                workers.call("open_r1.rewards.math.math_verify:compare", *pair)

        with ThreadPoolExecutor(2 * workers) as threads:
            list(threads.map(judge, pairs[:2]))  # the server's start
            start = time.perf_counter()
            list(threads.map(judge, pairs))
            print(f"  {workers} workers: {len(pairs) / (time.perf_counter() - start):.0f} comparisons/s")
        with_workers.close()


def delays(rows: list[Row]) -> None:
    """Wall time of a batch with one completion that hangs, beside that of the same batch without it."""
    batch = rows[:64]
    with ThreadPoolExecutor(8) as threads:

        def judge(batch: list[Row]) -> float:
            start = time.perf_counter()
            list(threads.map(lambda row: accuracy(*row), batch))
            return time.perf_counter() - start

        judge(batch)
        print(f"  64 rows without one: {judge(batch):.2f} s; the limit of one is {worker_pool.SECONDS:g} s of CPU")
        for answer in HANGING:
            hanging = ("</think> $\\boxed{" + answer + "}$", "42")
            print(f"  with {answer:32} {judge([*batch, hanging]):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--rows", type=int, default=0, help="of each set; 0 for all")
    parser.add_argument("--labelled", action="store_true", help="only the verdicts on labelled pairs, no timing")
    args = parser.parse_args()
    if args.labelled:
        record.store("math_labelled", **labelled(args.data / "oracle" / "math.jsonl"))
        return
    sets = {
        "real responses": real_rows(args.data),
        "gold answers": gold_rows(args.data),
        "oracle": oracle_rows(args.data),
    }
    sets = {name: rows[: args.rows or None] for name, rows in sets.items()}
    sets["real responses and gold answers"] = sets["real responses"] + sets["gold answers"]
    sets["real responses, after the reasoning"] = [(extract_answer_part(c), g) for c, g in sets["real responses"]]
    record.store("math_rewards", sets={name: compare(name, rows) for name, rows in sets.items()})
    print("\nscaling")
    scaling(sets["oracle"])
    print("\na hanging completion in a batch")
    delays(sets["real responses"])


if __name__ == "__main__":
    main()
