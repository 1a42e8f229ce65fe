"""The benchmarks: every file is whole, finds its problems in local copies, and its verifier accepts its own golds."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import re
import zlib
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import shared

from open_r1.benchmarks import registry
from open_r1.config.loading import load_recipe
from open_r1.config.schema import BenchmarkConfig, DatasetConfig
from open_r1.data import multiple_choice
from open_r1.data.rows import read_stored_rows
from open_r1.errors import RecipeError
from open_r1.prompts import PROMPTS
from open_r1.rewards.language import LANGUAGES
from open_r1.rewards.registry import check_rewards
from open_r1.rewards.scoring import ScoredBatch

Row = dict[str, Any]
# Where the paper has figures: samples of each problem (arXiv 2501.12948v2, D.1), and problems.
PAPER = {"aime24": (64, 30), "gpqa_diamond": (64, 198), "math500": (16, 500), "livecodebench": (8, 279)}


@pytest.fixture
def typed(tmp_path: Path) -> Callable[..., BenchmarkConfig]:
    """`typed("aime24", "--benchmarks.0.k", "4")`: a benchmark as a recipe that lists it has it."""

    def read(entry: Any, *overrides: str) -> BenchmarkConfig:
        path = tmp_path / "evaluate" / "recipe.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({"model_name_or_path": "some/model", "benchmarks": [entry]}))
        return load_recipe(path, list(overrides), planned=True).args.benchmarks[0]

    return read


def local(name: str, *files: Path) -> dict[str, Any]:
    """A benchmark with its sources, or the first few of them, in local files."""
    found = registry.find_benchmark(name)
    sources = [
        {key: value for key, value in source.items() if key not in ("name", "split")} | {"path": str(file)}
        for source, file in zip(found["datasets"], files, strict=False)
    ]
    return found | {"datasets": sources}


def problems(benchmark: BenchmarkConfig) -> list[Row]:
    rows = read_stored_rows(benchmark.datasets, "evaluate", 0, "datasets")
    return rows.slice(0, len(rows))


def outcomes(benchmark: BenchmarkConfig, rows: list[Row], write: Callable[[Row], str]) -> Counter[str]:
    """How the benchmark's verifier judges a completion of each problem."""
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    [verdicts] = ScoredBatch([benchmark.verifier]).results([write(row) for row in rows], columns)
    return Counter(verdict.outcome for verdict in verdicts)


def boxed(answer: object) -> str:
    return f"<think>Wait, 7.</think> It is \\boxed{{{answer}}}."


def in_block(program: str) -> str:
    return f"<think>Easy.</think>\n```python\n{program}\n```"


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", registry.list_benchmarks())
def test_a_shipped_file_is_whole(typed, name):
    benchmark = typed(name)
    assert benchmark.name == name and benchmark.title and benchmark.source and benchmark.problems > 0
    assert benchmark.datasets and benchmark.prompt in PROMPTS
    check_rewards([benchmark.verifier])
    assert "pass@1" in benchmark.metrics
    for metric in benchmark.metrics:
        assert re.fullmatch(r"(pass|maj)@(k|\d+)", metric)
    if benchmark.verifier.name == "code":
        assert not any(metric.startswith("maj") for metric in benchmark.metrics), "programs cast no votes"
    if not name.startswith("tiny"):
        assert (benchmark.temperature, benchmark.top_p, benchmark.max_tokens) == (0.6, 0.95, 32768)
    for source in benchmark.datasets:
        assert "prompt" in source.columns or name in (
            "humaneval",
            "tiny",
            "tiny_talk",
        )  # which have a column of that name
    if name in PAPER:
        assert (benchmark.k, benchmark.problems) == PAPER[name]


def test_an_entry_is_a_name_a_file_or_a_mapping(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("datasets: [rows.jsonl]\nk: 8\n")
    assert registry.find_benchmark("aime24")["k"] == 64
    assert registry.find_benchmark({"name": "aime24", "k": 4}) == registry.find_benchmark("aime24") | {"k": 4}
    assert registry.find_benchmark(str(mine)) == {
        "name": "mine",
        "datasets": ["rows.jsonl"],
        "k": 8,
        "file": str(mine),
    }
    assert registry.find_benchmark({"name": str(mine), "k": 2})["k"] == 2
    assert registry.find_benchmark({"name": "new", "datasets": ["rows.jsonl"]}) == {
        "name": "new",
        "datasets": ["rows.jsonl"],
    }
    mine.write_text("name: other\ndatasets: [rows.jsonl]\n")
    assert registry.find_benchmark(str(mine))["name"] == "other"
    for entry in ("aime24", {"name": "aime24", "k": 4}, str(mine), {"name": "new", "datasets": ["rows.jsonl"]}):
        assert registry.find_benchmark(registry.find_benchmark(entry)) == registry.find_benchmark(entry)
    assert registry.read_benchmark_file({"name": "aime24", "k": 4})["k"] == 64
    assert registry.read_benchmark_file({"name": "new", "datasets": ["rows.jsonl"]}) == {}


@pytest.mark.parametrize(
    "entry, message",
    [
        ("gsm9k", "did you mean 'gsm8k'"),
        ({"name": "gsm9k", "k": 4}, "did you mean 'gsm8k'"),
        ({"name": "gsm9k", "datasets": []}, "did you mean 'gsm8k'"),
        ("there/is/none.yaml", "there is no file there/is/none.yaml"),
        ({"k": 4}, "a mapping with a `name`"),
        (["aime24"], "a mapping with a `name`"),
        (24, "a mapping with a `name`"),
    ],
)
def test_an_entry_that_names_nothing(entry, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        registry.find_benchmark(entry)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("mine", "- a\n- b\n", "must be a mapping of keys to values, got list"),
        ("mine", "", "must be a mapping of keys to values, got NoneType"),
        ("mine", "k: [1\n", "is not valid YAML"),
        ("aime24", "k: 4\n", "has the name 'aime24' of another benchmark"),
        ("mine", "name: gsm8k\n", "has the name 'gsm8k' of another benchmark"),
    ],
)
def test_a_file_that_is_no_benchmark(tmp_path, name, content, message):
    path = tmp_path / f"{name}.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=re.escape(message)):
        registry.find_benchmark(str(path))


def test_keys_of_a_file_are_typed_and_replaced_from_the_command_line(typed, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("datasets: [{path: rows.jsonl}]\nverifier: {name: code, seconds: 9}\n")
    benchmark = typed(str(path), "--benchmarks.0.k", "4", "--benchmarks.0.datasets.0.path", "other.jsonl")
    assert (benchmark.k, benchmark.datasets[0].path) == (4, "other.jsonl")
    assert benchmark.verifier.parameters == {"seconds": 9}
    path.write_text("datasets: [rows.jsonl]\nmetric: [pass@1]\n")
    with pytest.raises(RecipeError, match="did you mean 'metrics'"):
        typed(str(path))


MGSM = ["bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"]
CONTESTS = {
    "aime24": ({"prompt": "prompt", "solution": "answer"}, ["math", "aime24.jsonl"], 30),
    "aime25": ({"prompt": "prompt", "solution": "answer"}, ["math", "aime25.jsonl"], 30),
    # A copy of the 83 problems of two years, each numbered from 0.
    "amc23": ({"prompt": "question", "solution": "answer", "id": "url"}, ["math", "amc23.jsonl"], 83),
    "math500": (None, ["math", "math500.jsonl"], 500),
    "gsm8k": (None, ["gsm8k", "test.jsonl"], 1319),
}


@pytest.mark.parametrize("name", CONTESTS)
def test_golds_of_mathematics_are_right_and_their_neighbours_wrong(typed, name):
    columns, path, expected = CONTESTS[name]
    entry = local(name, shared(*path))
    if columns:
        entry["datasets"][0]["columns"] = columns
    benchmark = typed(entry)
    rows = problems(benchmark)
    assert len(rows) == expected
    names = [row["id"] if columns and "id" in columns else row["prompt"] for row in rows]
    assert len(set(names)) == expected
    assert outcomes(benchmark, rows, lambda row: boxed(row["solution"])) == {"correct": expected}
    numbers = [row for row in rows if re.fullmatch(r"-?\d+(\.\d+)?", str(row["solution"]))]
    assert len(numbers) > expected / 2
    near = outcomes(benchmark, numbers, lambda row: boxed(Fraction(str(row["solution"])) + 1))
    assert near == {"wrong": len(numbers)}
    assert outcomes(benchmark, rows[:20], lambda row: f"<think>It is \\boxed{{{row['solution']}}}.") == {"wrong": 20}


def test_mgsm_asks_and_is_measured_in_each_language(typed, tmp_path):
    sources = registry.find_benchmark("mgsm")["datasets"]
    assert [source["name"] for source in sources] == MGSM
    files = []
    for source in sources:
        path = tmp_path / f"{source['name']}.tsv"
        path.write_text(f'question\tanswer_number\nQuestion in {source["name"]}, with "quotes"?\t1,200\n')
        files.append(path)
        assert r"\boxed{{}}" in source["template"]["prompt"]
    benchmark = typed(local("mgsm", *files))
    rows = problems(benchmark)
    assert len({row["prompt"] for row in rows}) == 11
    detected = {language for languages in LANGUAGES.values() for language in languages}
    for row, source in zip(rows, sources, strict=True):
        asked, said = row["prompt"].split("\n")
        assert asked == f'Question in {source["name"]}, with "quotes"?' and said.count(r"\boxed{}") == 1
        assert row["language"] == (source["name"] if source["name"] in detected else None)
    assert outcomes(benchmark, rows, lambda row: boxed(1200)) == {"correct": 11}
    assert outcomes(benchmark, rows, lambda row: boxed(1201)) == {"wrong": 11}


def test_golds_of_mgsm(typed, tmp_path):
    sources = {source["name"]: i for i, source in enumerate(registry.find_benchmark("mgsm")["datasets"])}
    entry = registry.find_benchmark("mgsm")
    entry["datasets"] = [entry["datasets"][sources[language]] for language in ("de", "en", "fr", "ja", "zh")]
    for source in entry["datasets"]:
        path = tmp_path / f"{source['name']}.tsv"
        text = shared("multilingual", f"mgsm_{source['name']}.tsv").read_text(encoding="utf-8")
        path.write_text("question\tanswer_number\n" + text, encoding="utf-8")
        source["path"] = str(path)
    benchmark = typed(entry)
    rows = problems(benchmark)
    assert len(rows) == len({row["prompt"] for row in rows}) == 1250
    assert outcomes(benchmark, rows, lambda row: boxed(row["solution"])) == {"correct": 1250}
    assert outcomes(benchmark, rows, lambda row: boxed(f"1{row['solution']}")) == {"wrong": 1250}


def test_olympiadbench_takes_the_context_and_all_of_several_answers(typed, tmp_path):
    rows = [
        {"id": 1, "question": "Find $x$.", "context": None, "final_answer": ["$2,-1$"]},
        {"id": 2, "question": "And $y$?", "context": "Let $x+y=3$.", "final_answer": ["$\\frac{1}{2}$"]},
    ]
    benchmark = typed(local("olympiadbench", write_jsonl(tmp_path / "olympiad.jsonl", rows)))
    first, second = problems(benchmark)
    assert first["prompt"] == "Find $x$." and second["prompt"] == "Let $x+y=3$.\nAnd $y$?"
    answers = {1: ["-1, 2", "2,-1"], 2: ["0.5", "\\frac12"]}
    for row in (first, second):
        for answer in answers[row["id"]]:
            assert outcomes(benchmark, [row], lambda _, answer=answer: boxed(answer)) == {"correct": 1}
    assert outcomes(benchmark, [first, second], lambda _: boxed("2")) == {"wrong": 2}


def gpqa_csv(path: Path, count: int = 200) -> Path:
    lines = ["Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3"]
    for i in range(count):
        lines.append(f'rec{i},"Which, of {i},\nis ""it""?","{i} right\n",{i} wrong,"{i} wronger, still",{i} wrongest')
    path.write_text("\n".join(lines) + "\n")
    return path


def test_gpqa_letters_its_options_the_same_way_in_every_run(typed, tmp_path):
    path = str(gpqa_csv(tmp_path / "gpqa.csv"))
    benchmark = typed("gpqa_diamond", "--benchmarks.0.datasets.0.args.path", path)
    rows = problems(benchmark)
    assert len({row["id"] for row in rows}) == 200
    for i, row in enumerate(rows):
        question, options = row["prompt"].split("\n\n")
        assert question == f'Which, of {i},\nis "it"?'
        by_letter = dict(re.findall(r"(?m)^([A-D])\) (.*)$", options))
        assert set(by_letter.values()) == {f"{i} right", f"{i} wrong", f"{i} wronger, still", f"{i} wrongest"}
        assert by_letter[row["solution"]] == f"{i} right"
    letters = Counter(row["solution"] for row in rows)
    assert all(30 < letters[letter] < 70 for letter in "ABCD")  # 50 of each, give or take three standard deviations
    wrong = ["Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
    others = [multiple_choice.multiple_choice(seed, path, "Correct Answer", wrong) for seed in (1, 2)]
    assert others[0]["solution"] == others[1]["solution"] == [row["solution"] for row in rows]
    assert outcomes(benchmark, rows, lambda row: f"<think>A?</think>So.\n\nAnswer: {row['solution']}") == {
        "correct": 200
    }
    assert outcomes(benchmark, rows, lambda row: boxed(row["solution"])) == {"correct": 200}
    other = {"A": "B", "B": "C", "C": "D", "D": "A"}
    assert outcomes(benchmark, rows, lambda row: f"Answer: {other[row['solution']]}") == {"wrong": 200}


@pytest.mark.parametrize(
    "row, wrong, message",
    [
        ({"q": "?", "r": "1", "w": "2"}, ["w", "v"], "column 'v' is missing; it has q, r, w"),
        ({"q": "?", "r": "1", "w": " 1 "}, ["w"], "row 0: the right option '1' is also a wrong one"),
        ({"q": "?", "r": "1", "w": " "}, ["w"], "row 0: 'w' is empty"),
        ({"q": "?", "r": None, "w": "2"}, ["w"], "row 0: 'r' is empty"),
        ({"q": "?", "r": "1", "w": "2"}, [], "args.wrong: 1 to 9"),
        ({"q": "?", "r": "1", "w": "2"}, ["w"] * 10, "args.wrong: 1 to 9"),
    ],
)
def test_a_choice_that_cannot_be_made(tmp_path, row, wrong, message):
    path = write_jsonl(tmp_path / "choices.jsonl", [row, row | {"r": "9", "w": "8"}])
    source = DatasetConfig(
        "open_r1.data.multiple_choice:multiple_choice",
        columns={"prompt": "q"},
        args={"path": str(path), "right": "r", "wrong": wrong},
    )
    with pytest.raises(RecipeError, match=re.escape(message)):
        read_stored_rows([source], "evaluate", 0, "datasets")


def test_golds_of_humaneval(typed, tmp_path):
    """Whole programs, and programs that leave out what the prompt imports and defines before its function."""
    path = tmp_path / "humaneval.jsonl"
    path.write_bytes(gzip.decompress(shared("code", "HumanEval.jsonl.gz").read_bytes()))
    benchmark = typed(local("humaneval", path))
    rows = problems(benchmark)
    assert len({row["id"] for row in rows}) == 164

    def program(row: Row, whole: bool = True) -> str:
        text = row["prompt"] + row["canonical_solution"]
        return in_block(text if whole else text[text.rindex(f"def {row['entry_point']}(") :])

    assert outcomes(benchmark, rows, program) == {"correct": 164}
    assert outcomes(benchmark, rows, lambda row: program(row, whole=False)) == {"correct": 164}
    assert outcomes(benchmark, rows[:30], lambda row: in_block(row["prompt"] + "    pass")) == {"wrong": 30}


def test_golds_of_mbpp(typed):
    benchmark = typed(local("mbpp", shared("code", "mbpp.jsonl")))
    rows = problems(benchmark)
    assert len({row["id"] for row in rows}) == len({row["prompt"] for row in rows}) == 500
    assert min(row["id"] for row in rows) == 11 and max(row["id"] for row in rows) == 510
    assert all(row["prompt"].count("\nassert") == 3 for row in rows)
    some = rows[::5]
    assert outcomes(benchmark, some, lambda row: in_block(row["code"])) == {"correct": 100}
    renamed = outcomes(benchmark, some[:20], lambda row: in_block(row["code"].replace("def ", "def not_")))
    assert renamed == {"wrong": 20}


class Armed:
    """A pickle that does something when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch armed",)


def packed(tests: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(tests))).decode()


def contest(name: str, date: str, public: list[Row], private: str, starter: str = "", metadata: str = "{}") -> Row:
    return {
        "question_id": name,
        "question_content": f'{name} says "it\'s {{x}}".',
        "contest_date": date,
        "starter_code": starter,
        "public_test_cases": json.dumps(public),
        "private_test_cases": private,
        "metadata": metadata,
    }


def test_livecodebench_takes_its_window_and_reads_hidden_tests_as_text(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = [{"input": "3\n", "output": "3\n", "testtype": "stdin"}]
    hidden = [{"input": "4\n", "output": "4\n", "testtype": "stdin"}]
    called = [{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]
    method = "class Solution:\n    def add(self, a: List[int], b: int) -> int:\n        "
    rows = [
        contest("before", "2024-07-31T00:00:00", printed, packed(json.dumps(hidden))),
        contest("first", "2024-08-01T00:00:00", printed, packed(json.dumps(hidden))),
        contest("plain", "2024-10-05T00:00:00", printed, json.dumps(hidden)),
        contest("method", "2025-01-31T00:00:00", called, packed(json.dumps(called)), method, '{"func_name": "add"}'),
        contest("armed", "2024-12-31T00:00:00", printed, packed(Armed())),
        contest("after", "2025-02-01T00:00:00", printed, packed(json.dumps(hidden))),
    ]
    path = write_jsonl(tmp_path / "lcb.jsonl", rows)
    benchmark = typed(local("livecodebench", path, path))
    found = {row["id"]: row for row in problems(benchmark)}
    assert list(found) == ["first", "plain", "armed", "method"]
    assert found["first"]["prompt"].startswith('first says "it\'s {x}".\n\nRead the inputs from stdin')
    assert method.strip() in found["method"]["prompt"] and "stdin" not in found["method"]["prompt"]
    echo, three = in_block("print(input())"), in_block("print(3)")
    add = in_block("class Solution:\n    def add(self, a, b):\n        return sum(a) + b")
    for name, completion, outcome in [
        ("first", echo, "correct"),
        ("first", three, "wrong"),  # right on the public test, wrong on the hidden one
        ("plain", echo, "correct"),
        ("plain", three, "wrong"),
        ("method", add, "correct"),
        ("method", add.replace("+ b", "- b"), "wrong"),
        ("armed", echo, "unknown"),
    ]:
        assert outcomes(benchmark, [found[name]], lambda _, text=completion: text) == {outcome: 1}, name
    assert not (tmp_path / "armed").exists()


def test_the_miniature_has_its_problems(typed):
    benchmark = typed("tiny")
    rows = problems(benchmark)
    assert len(rows) == benchmark.problems == len({str(row["prompt"]) for row in rows})
    assert {row["language"] for row in rows} == {"en", "zh"}
    tags = "<think> a </think> <answer> {} </answer>"
    assert outcomes(benchmark, rows, lambda row: tags.format(row["solution"])) == {"correct": 200}
    assert outcomes(benchmark, rows, lambda row: tags.format((int(row["solution"]) + 1) % 10)) == {"wrong": 200}


@pytest.mark.parametrize(
    "name, asked",
    [
        ("boxed", "2+2?\nPlease reason step by step, and put your final answer within \\boxed{}."),
        ("complete_python", "code to do completion:\n```python\n2+2?\n```"),
        ("livecodebench", "passes all tests.\n\nQuestion: 2+2?"),
        ("multiple_choice", "Think step by step before answering.\n\n2+2?"),
        ("write_python", "here is your task: 2+2?\n\nPut your program in a block"),
    ],
)
def test_what_the_prompts_of_benchmarks_ask(name, asked):
    [message] = PROMPTS[name].present("2+2?")
    assert message["role"] == "user" and asked in message["content"]
