"""Labelled programs: does the judge agree with every label?"""

from __future__ import annotations

import gzip
import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import shared

from open_r1.rewards.code.assert_tests import add_helpers
from open_r1.sandbox.cases import AssertTest, Limits, Program
from open_r1.sandbox.judging import judge_program

# Labels that contradict their own row: the program uses a module that it does not import, or the test calls a function
# that it does not define. (Other rows with the same flaw are labelled false.)
MISLABELLED = {"MBPP/293", "MBPP/319", "MBPP/338", "MBPP/403", "MBPP/495"}
MISLABELLED_SOURCE = "mbpp/seed/gpt-3.5-turbo-0613"
# A right program that was run without its prompt, whose helper the test calls.
WITHOUT_PROMPT = ("HumanEval/50", "humaneval/seed/gpt-3.5-turbo-0613")


def rows() -> list[dict]:
    return [json.loads(line) for line in shared("oracle", "code.jsonl").read_text().splitlines()]


def mislabelled(row: dict) -> bool:
    task, source = WITHOUT_PROMPT
    if row["task_id"] == task and source in row["sources"][0]:
        return True
    return row["task_id"] in MISLABELLED and MISLABELLED_SOURCE in row["sources"][0] and row["expected"]


def verdict(row: dict) -> str:
    whole = f"def {row['entry_point']}(" in row["solution"] or row["benchmark"] == "MBPP"
    test = row["test"] if row["benchmark"] == "MBPP" else f"{row['test']}\ncheck({row['entry_point']})\n"
    source = row["solution"] if whole else row["prompt"] + row["solution"]
    prompt = "" if row["benchmark"] == "MBPP" else row["prompt"]
    asserts = add_helpers(AssertTest(test), prompt, row["entry_point"])
    return judge_program(Program(source), [asserts], Limits(seconds=4.0, wall_seconds=30.0))[0].status


def disagreements(chosen: list[dict]) -> list[str]:
    with ThreadPoolExecutor(4) as threads:
        verdicts = threads.map(verdict, chosen)
        expected = ["passed" if row["expected"] != mislabelled(row) else "failed" for row in chosen]
        return [
            f"{row['task_id']} {row['sources'][0]}: {status}, not {label}"
            for row, status, label in zip(chosen, verdicts, expected, strict=True)
            if status != label
        ]


def test_a_sample_of_the_labels():
    assert not disagreements(random.Random(0).sample(rows(), 150))


@pytest.mark.long
def test_every_label():
    every = rows()
    assert len(every) == 1628 and sum(map(mislabelled, every)) == 6
    assert not disagreements(every)


@pytest.mark.long
def test_reference_programs_pass():
    with gzip.open(shared("code", "HumanEval.jsonl.gz"), "rt") as file:
        human_eval = [json.loads(line) for line in file]
    mbpp = [json.loads(line) for line in shared("code", "mbpp.jsonl").read_text().splitlines()]
    cases = [
        (
            row["prompt"] + row["canonical_solution"],
            add_helpers(
                AssertTest(f"{row['test']}\ncheck({row['entry_point']})\n"), row["prompt"], row["entry_point"]
            ),
            row["task_id"],
        )
        for row in human_eval
    ]
    cases += [
        (
            row["code"],
            AssertTest("\n".join([row["test_setup_code"], *row["test_list"]]).replace("\r", "")),
            f"MBPP/{row['task_id']}",
        )
        for row in mbpp
    ]

    def outcome(case: tuple[str, AssertTest, str]) -> str:
        result = judge_program(Program(case[0]), [case[1]], Limits(seconds=10.0, wall_seconds=60.0))[0]
        return "" if result.status == "passed" else f"{case[2]}: {result.status} {result.reason}"

    with ThreadPoolExecutor(4) as threads:
        assert not list(filter(None, threads.map(outcome, cases)))
