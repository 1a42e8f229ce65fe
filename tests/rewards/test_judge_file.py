"""`open-r1 judge`: stored answers in, the same rows with verdicts out."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest
from conftest import command

from open_r1.errors import RecipeError
from open_r1.rewards.judge_file import judge_file, read_rows

ROWS = [
    {"id": 1, "completion": "<think>1+1</think> \\boxed{2}", "solution": "2"},
    {"id": 2, "completion": "<think>\\boxed{2}</think> no idea", "solution": "2"},
    {"id": 3, "answer": "\\frac12", "solution": "0.5"},
    {"id": 4, "answer": "3", "solution": ""},
    {"id": 5, "completion": "half \ud800 of a pair", "solution": "1"},
]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_come_back_in_order_with_verdicts(tmp_path):
    done = command(
        "judge",
        "accuracy",
        "--input",
        jsonl(tmp_path / "rows.jsonl", ROWS),
        "--output",
        tmp_path / "v.jsonl",
        fresh=True,
    )
    assert done.returncode == 0, done.stderr
    judged = list(read_rows(tmp_path / "v.jsonl"))
    assert [row["verdict"] for row in judged] == ["correct", "wrong", "correct", "unknown", "wrong"]
    assert [row["id"] for row in judged] == [1, 2, 3, 4, 5] and judged[4]["completion"] == ROWS[4]["completion"]
    assert all(row["seconds"] >= 0 for row in judged) and judged[3]["reason"] == "no gold answer"
    assert "5 rows" in done.stdout and "2 correct" in done.stdout and "1 unknown" in done.stdout


def test_parquet_both_ways(tmp_path):
    rows = [{"answer": "2", "solution": "2"}, {"answer": "3", "solution": "2"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    summary = judge_file("accuracy", tmp_path / "rows.parquet", tmp_path / "out.parquet", {})
    assert [row["verdict"] for row in read_rows(tmp_path / "out.parquet")] == ["correct", "wrong"]
    assert summary["rows"] == 2 and summary["correct"] == 1 and summary["wrong"] == 1


def test_a_reward_that_is_a_number(tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", [{"completion": "<think>a</think>b"}, {"completion": "b"}])
    summary = judge_file("think_format", rows, tmp_path / "out.jsonl", {})
    assert [(row["score"], row["verdict"]) for row in read_rows(tmp_path / "out.jsonl")] == [
        (1.0, "scored"),
        (0.0, "scored"),
    ]
    assert summary["scored"] == 2


def test_a_reward_that_does_not_apply(tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", [{"completion": "<think>1</think>2", "prompt": "add them"}])
    judge_file("language_consistency", rows, tmp_path / "out.jsonl", {})
    (row,) = read_rows(tmp_path / "out.jsonl")
    assert row["verdict"] == "unknown" and "does not apply" in row["reason"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"solution": "2"}, "neither `completion` nor `answer`"),
        ({"answer": "2", "gold": "2"}, "accuracy needs solution; the row has answer, gold"),
        ({"completion": None, "solution": "2"}, "`completion` is NoneType"),
    ],
)
def test_rows_that_cannot_be_judged_say_why(tmp_path, row, reason):
    good = {"answer": 2, "solution": 2}
    judge_file("accuracy", jsonl(tmp_path / "rows.jsonl", [good, row]), tmp_path / "out.jsonl", {})
    first, second = read_rows(tmp_path / "out.jsonl")
    assert first["verdict"] == "correct" and second["verdict"] == "unknown" and reason in second["reason"]
    with pytest.raises(RecipeError, match="row 1: "):
        judge_file("accuracy", jsonl(tmp_path / "rows.jsonl", [row]), tmp_path / "none.jsonl", {})
    assert not (tmp_path / "none.jsonl").exists()


def test_conversational_completions(tmp_path):
    row = {"completion": [{"role": "assistant", "content": "<think>x</think> 2"}], "solution": "2"}
    assert judge_file("accuracy", jsonl(tmp_path / "rows.jsonl", [row]), tmp_path / "out.jsonl", {})["correct"] == 1


def test_files_that_cannot_be_read_rows(tmp_path):
    for name, message in (("none.jsonl", "no file"), ("rows.txt", "neither .jsonl nor .parquet")):
        if name.endswith("txt"):
            (tmp_path / name).write_text("x")
        with pytest.raises(RecipeError, match=message):
            judge_file("accuracy", tmp_path / name, tmp_path / "out.jsonl", {})
    (tmp_path / "bad.jsonl").write_text('{"answer": "2", "solution": "2"}\n{"answer"\n')
    with pytest.raises(RecipeError, match="line 2: not valid JSON"):
        judge_file("accuracy", tmp_path / "bad.jsonl", tmp_path / "out.jsonl", {})
    with pytest.raises(RecipeError, match=r"neither .jsonl nor .parquet"):
        judge_file("accuracy", jsonl(tmp_path / "rows.jsonl", ROWS[:1]), tmp_path / "out.csv", {})


def test_a_reward_that_needs_a_training(tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", [{"completion": "x", "tokens": 3}])
    with pytest.raises(RecipeError, match="soft_overlong needs max_tokens, which only a training has"):
        judge_file("soft_overlong", rows, tmp_path / "out.jsonl", {})


def test_a_bare_answer_needs_a_verifier_of_answers(tmp_path):
    with pytest.raises(RecipeError, match="think_format judges whole completions"):
        judge_file("think_format", jsonl(tmp_path / "rows.jsonl", [{"answer": "2"}]), tmp_path / "out.jsonl", {})


def test_an_unknown_reward_or_parameter(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", ROWS[:1])
    refused = command("judge", "acuracy", "--input", path, "--output", tmp_path / "out.jsonl", fresh=True)
    assert refused.returncode == 1 and "did you mean 'accuracy'" in refused.stderr
    words = ["judge", "accuracy", "--input", path, "--output", tmp_path / "out.jsonl", "--strict", "true"]
    refused = command(*words, fresh=True)
    assert refused.returncode == 1 and "no parameter 'strict'" in refused.stderr
