"""The task `evaluate`: every figure can be computed again from its files, whatever happened on the way."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from statistics import mean

import pytest
import yaml
from conftest import MODEL, ROOT, command
from support import warm

from open_r1 import evaluate
from open_r1.benchmarks.registry import list_benchmarks
from open_r1.config import schema
from open_r1.config.loading import load_recipe
from open_r1.config.protocol import find_departures
from open_r1.config.schema import DatasetConfig
from open_r1.data import shards
from open_r1.engines import registry
from open_r1.engines.registry import Completion, Sampling, derive_seed, make_refusal
from open_r1.errors import RecipeError
from open_r1.evaluation import grading
from open_r1.evaluation import problems as evaluation_problems
from open_r1.evaluation.problems import load_benchmarks, load_problems
from open_r1.launch import local
from open_r1.rewards import registry as rewards_registry
from open_r1.rewards.registry import RewardConfig
from open_r1.run.run import Run
from open_r1.system import files

PROBLEMS = 7
K = 4


class Adder:
    """An engine that adds the two numbers of a question, more often wrongly the larger they are."""

    at_once = 1
    model = "adder"
    asked = 0  # completions, over all instances
    last = None  # what it was called with
    most = sys.maxsize  # of them, before it fails
    truncated = 0.15

    def __init__(self, recipe):
        pass

    def generate(self, prompts, n, sampling: Sampling, rows=None, done=None):
        made_PN = []
        Adder.last = prompts, n, sampling
        for prompt, row in zip(prompts, rows, strict=True):
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            if "refuse" in text:
                made_PN.append([make_refusal("the prompt is too long: 9 tokens")] * n)
                continue
            a, b = map(int, re.findall(r"\d+", text)[:2])
            made_PN.append(
                [self.answer(a + b, random.Random(derive_seed(sampling.seed, row, k)), a) for k in range(n)]
            )
            Adder.asked += n
            if Adder.asked > Adder.most:
                raise RecipeError("engine: out of order")
        if done:
            done(n * len(prompts), sum(made.tokens for made_N in made_PN for made in made_N))
        return made_PN

    @staticmethod
    def answer(right: int, rng: random.Random, difficulty: int) -> Completion:
        given = right if rng.random() > difficulty / 8 else right + rng.choice([1, 1, 2])
        written = rng.choice([f"{given}", f"{given}.0", f"\\frac{{{2 * given}}}{{2}}"])
        if rng.random() < Adder.truncated:
            return Completion("<think> hm hm hm", 40, "length")
        return Completion(f"<think> so </think> The answer is \\boxed{{{written}}}.", rng.randint(9, 30), "stop")

    def close(self):
        pass


def rows_of_problems(count: int = PROBLEMS) -> list[dict]:
    return [{"id": f"p{i}", "prompt": f"What is {i} + {2 * i}?", "solution": str(3 * i)} for i in range(count)]


def written(path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def measure(write_recipe, tmp_path):
    """`measure(k=2, ...)` runs an evaluation of the adder; its directory."""

    def main(*overrides: str, rows: list[dict] | None = None, benchmark: dict | None = None, **keys: object):
        source = written(tmp_path / "problems.jsonl", rows_of_problems() if rows is None else rows)
        entry = {"name": "sums", "datasets": [source], "k": K, "metrics": ["pass@1", "pass@2", "maj@k"]}
        keys = {"random_init": ..., "model_name_or_path": "adder", "engine": {"name": "test_evaluate:Adder"}} | keys
        path = write_recipe("evaluate", **({"benchmarks": [entry | (benchmark or {})]} | keys))
        evaluate.main(load_recipe(path, list(overrides)))
        return tmp_path / "run"

    return main


def told(directory, name: str = "sums") -> dict:
    return files.read_json(directory / "evaluations" / f"{name}.json")


def judged(directory) -> list[dict]:
    return [row for batch in shards.read_folder(directory / "judged") for row in batch]


def sampled(directory) -> list[dict]:
    return [row for batch in shards.read_folder(directory / "data") for row in batch]


def test_every_figure_can_be_computed_again_from_the_files(measure):
    directory = measure()
    figures, rows = told(directory), judged(directory)
    assert [(row["problem"], row["sample"]) for row in rows] == [
        (f"p{i}", k) for i in range(PROBLEMS) for k in range(K)
    ]
    right_PK = [[row["verdict"] == "correct" for row in rows[i * K : i * K + K]] for i in range(PROBLEMS)]
    assert 0.3 < figures["metrics"]["pass@1"]["value"] < 0.9
    assert figures["metrics"]["pass@1"]["value"] == pytest.approx(mean(map(mean, right_PK)))
    pairs = [mean(any(pair) for pair in itertools.combinations(right_K, 2)) for right_K in right_PK]
    assert figures["metrics"]["pass@2"]["value"] == pytest.approx(mean(pairs))
    majorities = []
    for i, right_K in enumerate(right_PK):
        votes = Counter(row["vote"] for row in rows[i * K : i * K + K] if row["vote"] is not None)
        winners = [vote for vote, count in votes.items() if count == max(votes.values())]
        of_vote = {row["vote"]: right for row, right in zip(rows[i * K :], right_K, strict=False)}
        majorities.append(mean(of_vote[vote] for vote in winners) if winners else 0)
    assert figures["metrics"]["maj@4"]["value"] == pytest.approx(mean(majorities))
    assert figures["shares"]["truncated"]["value"] == mean(row["finish_reason"] == "length" for row in rows)
    assert figures["tokens"]["mean"]["value"] == pytest.approx(mean(row["tokens"] for row in rows))
    assert len({row["answer"] for row in rows}) > len({row["vote"] for row in rows})  # 3, 3.0 and 6/2 vote for one
    low, high = (figures["metrics"]["pass@1"][side] for side in ("low", "high"))
    assert 0 <= low < figures["metrics"]["pass@1"]["value"] < high <= 1


def test_a_benchmark_is_sampled_by_its_protocol(measure):
    protocol = {
        "k": 3,
        "temperature": 0.7,
        "top_p": 0.8,
        "max_tokens": 99,
        "prompt": "boxed",
        "system_prompt": "Think.",
    }
    directory = measure("--seed", "5", "--level", "0.5", benchmark=protocol | {"metrics": ["pass@1"]})
    prompts, n, sampling = Adder.last
    assert (n, sampling) == (3, Sampling(0.7, 0.8, max_tokens=99, seed=5))
    system, question = prompts[0]
    assert system == {"role": "system", "content": "Think."} and "\\boxed{}" in question["content"]
    figures = told(directory)
    assert figures["protocol"] == protocol | {"top_k": 0, "chat_template": None} and figures["level"] == 0.5
    half = figures["metrics"]["pass@1"]
    whole = told(measure("--seed", "5", "--rejudge", benchmark=protocol | {"metrics": ["pass@1"]}))["metrics"][
        "pass@1"
    ]
    assert whole["low"] < half["low"] < half["high"] < whole["high"]


def test_verdicts_of_two_versions_make_no_figure(measure):
    directory = measure()
    recipe = load_recipe(directory.parent / "recipes" / "small" / "evaluate" / "recipe.yaml")
    [problems] = [load_problems(benchmark, 0) for benchmark in load_benchmarks(recipe)]
    judged_PK = [list(samples) for _, samples in itertools.groupby(judged(directory), key=lambda row: row["row"])]
    judged_PK[4][2]["grader"] = "an older one"
    with pytest.raises(RecipeError, match=r"different versions of the judge \(accuracy\(\) .*; an older one\)"):
        evaluate.build_evaluation(Run(recipe, directory), problems, judged_PK, "adder")


def test_examples_are_the_samples_that_were_judged(measure):
    directory = measure()
    texts = {(row["problem"], row["sample"]): row["completion"] for row in sampled(directory)}
    for example in told(directory)["examples"]:
        name = next(f"p{i}" for i in range(PROBLEMS) if str(3 * i) == example["solution"])
        of_problem = [row for row in judged(directory) if row["problem"] == name]
        shown = [(s["completion"], s["verdict"], s["tokens"], s["answer"]) for s in example["samples"]]
        made = [(texts[name, row["sample"]], row["verdict"], row["tokens"], row["answer"]) for row in of_problem]
        assert len(shown) == 2 and set(shown) <= set(made)
        assert len({verdict for _, verdict, *_ in shown}) == len({row["verdict"] for row in of_problem})


def test_completions_are_kept_with_all_that_made_them(measure):
    rows = sampled(measure())
    assert [row["seed"] for row in rows[:2]] == [derive_seed(0, 0, 0), derive_seed(0, 0, 1)]
    assert {row["model"] for row in rows} == {"adder"} and {row["benchmark"] for row in rows} == {"sums"}


def test_the_files_are_those_of_a_run_without_other_benchmarks(measure, tmp_path):
    alone = sampled(measure())
    more = written(tmp_path / "more.jsonl", rows_of_problems(5))
    source = str(tmp_path / "problems.jsonl")
    directory = measure(
        "--overwrite",
        benchmarks=[
            {"name": "more", "datasets": [more], "k": 3},
            {"name": "sums", "datasets": [source], "k": K, "metrics": ["pass@1", "maj@k"]},
        ],
    )
    assert [row for row in sampled(directory) if row["benchmark"] == "sums"] == alone
    assert told(directory, "more")["samples"] == 15 and set(told(directory, "more")["metrics"]) == {"pass@1"}


def test_an_evaluation_that_is_interrupted_goes_on_and_samples_nothing_twice(measure, monkeypatch):
    monkeypatch.setattr(Adder, "asked", 0)
    monkeypatch.setattr(Adder, "most", 4 * K)
    with pytest.raises(RecipeError, match="out of order"):
        measure()
    begun = Adder.asked
    monkeypatch.setattr(Adder, "most", sys.maxsize)
    directory = measure()
    assert Adder.asked == begun + (PROBLEMS - 3) * K  # the first file of three problems was there
    assert told(directory)["samples"] == PROBLEMS * K


def test_kept_completions_are_judged_again_without_sampling(measure, monkeypatch):
    directory = measure()
    before = told(directory)
    monkeypatch.setattr(registry, "open_engine", lambda recipe: pytest.fail("nothing is to be sampled"))
    with pytest.raises(RecipeError, match="holds a finished run"):
        measure()
    # Other metrics of the same verdicts.
    measure("--rejudge", "--metrics", "pass@3")
    assert set(told(directory)["metrics"]) == {"pass@3"} and told(directory)["grader"] == before["grader"]
    # Another verifier, on the same completions.
    measure("--rejudge", benchmark={"verifier": {"name": "test_evaluate:is_even"}, "metrics": ["pass@1"]})
    assert told(directory)["grader"] != before["grader"] and told(directory)["verifier"] == "test_evaluate:is_even"
    assert {row["reason"] for row in judged(directory)} == {""} and "is_even" in judged(directory)[0]["grader"]
    # One that reads another column, or none.
    measure("--rejudge", benchmark={"verifier": {"name": "test_evaluate:half"}, "metrics": ["pass@1"]})
    assert told(directory)["shares"]["unknown"]["value"] == 1
    # What is sampled otherwise is another run.
    with pytest.raises(RecipeError, match="begun by another recipe"):
        measure("--rejudge", benchmark={"k": 2})


def test_judging_again_never_samples(measure, tmp_path):
    with pytest.raises(RecipeError, match=r"rejudge: 3 of 3 files of completions are not in"):
        measure("--rejudge")
    _, words = local.plan_evaluation("some/model", ["math500"], ["--rejudge", "--metrics", "pass@1", "--k", "8"])
    assert "runs/model/evaluate/math500--k=8" in words  # the run that has them


def is_even(completion: str, solution: str) -> float:
    return float(int(solution) % 2 == 0)


def test_verdicts_of_another_version_of_the_judge_are_made_again(measure, monkeypatch):
    directory = measure()
    path = sorted((directory / "judged").glob("*.parquet"))[0]
    monkeypatch.setattr(rewards_registry, "version", lambda name: "the next one")
    files.write_json(directory / "status.json", {"state": "interrupted"})
    path.unlink()
    measure()
    assert {row["grader"] for row in judged(directory)} == {"accuracy() the next one"}
    assert told(directory)["grader"] == "accuracy() the next one"


def test_format_and_language_of_another_version_are_computed_again(measure, monkeypatch):
    directory = measure()
    before = {row["grader"] for row in judged(directory)}
    really = rewards_registry.version
    monkeypatch.setattr(
        rewards_registry, "version", lambda name: "the next one" if name == "language_consistency" else really(name)
    )
    files.write_json(directory / "status.json", {"state": "interrupted"})
    sorted((directory / "judged").glob("*.parquet"))[0].unlink()
    measure()
    rows = judged(directory)
    assert {row["grader"] for row in rows} == before
    assert all(row["measures"].endswith("the next one") for row in rows)


def test_departures_from_the_protocol_are_kept_beside_the_figures(write_recipe):
    path = write_recipe("evaluate", benchmarks=["tiny"])
    overrides = ["--k", "2", "--benchmarks.0.temperature", "0.5", "--prompt", "r1_zero", "--problems", "9"]
    recipe = load_recipe(path, overrides)
    [benchmark] = load_benchmarks(recipe)
    problems = load_problems(benchmark, 0)
    assert find_departures(recipe.args, benchmark, len(problems), problems.there) == {
        "k": [16, 2],
        "temperature": [1.0, 0.5],
        "prompt": ["chat", "r1_zero"],
        "problems": [200, 9],
    }
    recipe = load_recipe(path)
    assert find_departures(recipe.args, load_benchmarks(recipe)[0], 200, 200) == {}
    [benchmark] = load_benchmarks(recipe)
    assert find_departures(recipe.args, benchmark, 199, 199) == {"problems": [200, 199]}
    more = {"problems": [200, "the first 200 of 201"]}
    assert find_departures(recipe.args, benchmark, 200, 201) == more


def test_a_benchmark_of_ones_own_departs_from_its_own_file(write_recipe, tmp_path):
    source = written(tmp_path / "sums.jsonl", rows_of_problems())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"datasets": [source], "k": 8, "problems": 7}))
    recipe = load_recipe(write_recipe("evaluate", benchmarks=[str(tmp_path / "mine.yaml")], k=2))
    [benchmark] = load_benchmarks(recipe)
    assert (benchmark.name, benchmark.k, len(load_problems(benchmark, 0))) == ("mine", 2, 7)
    assert find_departures(recipe.args, benchmark, 7, 7) == {"k": [8, 2]}


@pytest.mark.parametrize("name", list_benchmarks())
def test_a_shipped_benchmark_as_it_is_departs_from_nothing(write_recipe, name):
    recipe = load_recipe(write_recipe("evaluate", benchmarks=[name]))
    [benchmark] = load_benchmarks(recipe)
    assert find_departures(recipe.args, benchmark, benchmark.problems, benchmark.problems) == {}


@pytest.mark.parametrize(
    ("name", "overrides", "departures"),
    [
        ("math500", ["--benchmarks.0.datasets.0.split", "train"], {"datasets.0.split": ["test", "train"]}),
        ("gsm8k", ["--benchmarks.0.datasets.0.rows", "9"], {"datasets.0.rows": [None, 9]}),
        ("aime24", ["--benchmarks.0.datasets.0.path", "a.csv"], {"datasets": ["HuggingFaceH4/aime_2024", "a.csv"]}),
        ("mbpp", ["--benchmarks.0.datasets.0.filters.id.max", "20"],
            {"datasets.0.filters": [{"id": {"min": 11, "max": 510}}, {"id": {"min": 11, "max": 20}}]}),
        ("mbpp", ["--benchmarks.0.verifier", "accuracy"], {"verifier": ["code", "accuracy"]}),
        ("gsm8k", ["--system_prompt", "Think."], {"system_prompt": [None, "Think."]}),
        ("gsm8k", ["--top_p", "1", "--max_tokens", "9"], {"top_p": [0.95, 1.0], "max_tokens": [32768, 9]}),
    ],
)  # fmt: skip
def test_every_key_that_is_measured_otherwise_is_told(write_recipe, name, overrides, departures):
    recipe = load_recipe(write_recipe("evaluate", benchmarks=[name]), overrides)
    [benchmark] = load_benchmarks(recipe)
    assert find_departures(recipe.args, benchmark, benchmark.problems, benchmark.problems) == departures


def test_a_verifiers_parameters_are_of_the_protocol(write_recipe):
    entry = {"name": "mbpp", "verifier": {"name": "code", "seconds": 1}}
    recipe = load_recipe(write_recipe("evaluate", benchmarks=[entry]))
    [benchmark] = load_benchmarks(recipe)
    assert find_departures(recipe.args, benchmark, 500, 500) == {"verifier.seconds": [None, 1]}


def test_refused_prompts_and_unreadable_golds_are_no_evidence(measure):
    rows = rows_of_problems()
    rows[1]["prompt"] += " refuse"
    rows[2]["solution"] = "\\begin{cases} x \\end{cases} words words"
    directory = measure(rows=rows)
    figures = told(directory)
    by_id = {problem["id"]: problem for problem in figures["by_problem"]}
    assert by_id["p1"]["evidence"] == 0 and by_id["p1"]["pass@1"] is None
    assert figures["metrics"]["pass@1"]["problems"] < PROBLEMS
    assert figures["shares"]["unknown"]["value"] >= 1 / PROBLEMS
    assert figures["shares"]["refused"]["value"] == pytest.approx(1 / PROBLEMS)
    low, high = figures["bounds"]["pass@1"]
    assert low < figures["metrics"]["pass@1"]["value"] < high
    assert any(reason.startswith("refused: the prompt is too long") for reason in figures["reasons"])


def test_without_a_single_verdict_nothing_is_claimed(measure, capsys, monkeypatch):
    monkeypatch.setattr(Adder, "truncated", 0.0)  # a completion without an answer is wrong, whatever the gold is
    rows = [row | {"solution": "a gold in words only"} for row in rows_of_problems()]
    figures = told(measure(rows=rows))
    assert figures["metrics"]["pass@1"] == {
        "value": None, "low": None, "high": None, "same_problems": None, "problems": 0,
    }  # fmt: skip
    assert figures["bounds"]["pass@1"][1] > 0.5
    assert "not mathematics" in capsys.readouterr().out


def test_a_judge_that_fails_stops_the_run_and_keeps_the_completions(measure, tmp_path):
    with pytest.raises(RecipeError, match="the judge itself failed on 12 of 12 completions"):
        measure(benchmark={"verifier": {"name": "test_evaluate:broken"}, "metrics": ["pass@1"]})
    assert len(sampled(tmp_path / "run")) == PROBLEMS * K and not judged(tmp_path / "run")


def broken(completion: str, solution: str) -> float:
    raise OSError("no such sandbox")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"benchmarks": ["aime25x"]}, "no benchmark 'aime25x'; did you mean 'aime25'"),
        ({"benchmarks": []}, "benchmarks: name at least one of"),
        ({"benchmarks": ["tiny", "tiny"]}, "'tiny' is listed twice"),
        ({"benchmarks": ["tiny"], "k": 1}, "k is 1 and maj@k asks for a vote"),
        ({"benchmarks": ["tiny"], "metrics": ["maj@64"]}, "maj@64 needs 64 samples of each problem, and k is 16"),
        ({"benchmarks": ["tiny"], "metrics": ["accuracy"]}, "'accuracy' is none; known: pass@<n>"),
        ({"benchmarks": ["tiny"], "metrics": []}, "tiny.metrics: the list is empty"),
        ({"benchmarks": ["tiny"], "temperature": 0.0}, "at temperature 0 all 16 completions would be the same"),
        ({"benchmarks": ["tiny"], "problems": 0}, "problems: 1 or more"),
        ({"benchmarks": [{"name": "tiny", "kk": 4}]}, "unknown key 'kk'; did you mean 'k'"),
        ({"benchmarks": [{"name": "tiny", "verifier": "acuracy"}]}, "no reward named 'acuracy'"),
        (
            {"benchmarks": [{"name": "tiny", "verifier": "code", "metrics": ["maj@k"]}]},
            "maj@k is a vote over answers, and code gives no",
        ),
        ({"benchmarks": [{"name": "tiny", "prompt": "boxd"}]}, "no prompt is named 'boxd'; did you mean 'boxed'"),
        ({"benchmarks": [{"name": "a/b", "datasets": ["x.jsonl"]}]}, "a name of at most 100 letters, digits"),
        ({"datasets": ["x.jsonl"]}, "datasets: an evaluation measures `benchmarks`"),
        ({"rewards": ["accuracy"]}, "rewards: evaluate has no rewards"),
        ({"level": 1.5}, "level: a confidence level"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(write_recipe, keys, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(write_recipe("evaluate", **keys))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([{"question": "1 + 1?", "solution": "2"}], "evaluate needs the columns prompt; it has question, solution"),
        ([{"prompt": "1 + 1?", "answer": "2"}], "accuracy needs the column 'solution'; the problems have"),
        (
            [{"id": 1, "prompt": "1 + 1?", "solution": "2"}, {"id": 1, "prompt": "1 + 2?", "solution": "3"}],
            "1 problem ids are repeated, '1' first (rows 0, 1)",
        ),
        ([{"prompt": "1 + 1?", "solution": "2"}] * 3, "first (rows 0, 1, 2)"),
    ],
)
def test_problems_that_cannot_be_measured_are_refused(measure, rows, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        measure(rows=rows)


def test_other_problems_than_those_begun_with_are_refused(measure, tmp_path):
    directory = measure()
    files.write_json(directory / "status.json", {"state": "interrupted"})
    with pytest.raises(RecipeError, match="sums changed since"):
        measure(rows=[row | {"solution": "5"} for row in rows_of_problems()])


def test_a_multiple_choice_votes_by_letter():
    grader = grading.Grader(RewardConfig("accuracy"))
    texts = ["</think> The answer is B.", "</think> \\boxed{B}", "</think> **Answer: C**", "</think> no idea"]
    rows = [
        {"row": 0, "sample": k, "prompt": "which?", "solution": "B", "completion": text, "tokens": 5}
        | {"finish_reason": "stop", "refused": None}
        for k, text in enumerate(texts)
    ]
    assert [row["vote"] for row in grader.grade(rows)] == ["B", "B", "C", None]
    assert [row["verdict"] for row in grader.grade(rows)] == ["correct", "correct", "wrong", "wrong"]


def test_numbers_between_right_and_wrong_are_no_verdict():
    grader = grading.Grader(RewardConfig("test_evaluate:half"))
    row = {
        "row": 0,
        "sample": 0,
        "prompt": "",
        "completion": "x",
        "tokens": 1,
        "finish_reason": "stop",
        "refused": None,
    }
    found = grader.grade([row])[0]
    assert (found["verdict"], found["reason"]) == ("unknown", "a score of 0.5 is no verdict")


def half(completion: str) -> float:
    return 0.5


def test_the_command_finds_a_runs_model_and_prompt(tmp_path):
    trained = tmp_path / "runs" / "small" / "grpo" / "zero"
    (trained / "model").mkdir(parents=True)
    (trained / "recipe.yaml").write_text(yaml.safe_dump({"prompt": "r1_zero", "task": "grpo"}))
    recipe, words = local.plan_evaluation(str(trained), ["aime24", "mine/sums.yaml"], ["--k", "4"])
    assert recipe == local.ANY_MODEL
    told = dict(itertools.pairwise(words))
    assert told["--prompt"] == "r1_zero" and told["--model_name_or_path"] == str(trained / "model")
    assert told["--output_dir"] == "runs/small/evaluate/grpo-zero+aime24+sums--k=4"
    _, words = local.plan_evaluation("Qwen/Qwen2.5-7B", ["math500"], [])
    assert "runs/Qwen2.5-7B/evaluate/math500" in words and "--prompt" not in words
    with pytest.raises(RecipeError, match="neither a model"):
        local.plan_evaluation(str(tmp_path), ["aime24"], [])
    (trained / "model").rmdir()
    with pytest.raises(RecipeError, match="without a model"):
        local.plan_evaluation(str(trained), ["aime24"], [])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An evaluation of a real model by the command; its recipe and directory."""
    folder = tmp_path_factory.mktemp("evaluate")
    path = folder / "recipes" / "small" / "evaluate" / "recipe.yaml"
    path.parent.mkdir(parents=True)
    content = {
        "random_init": MODEL,
        "tokenizer_name_or_path": "open_r1.tiny.tokenizer:build",
        "benchmarks": [{"name": "tiny", "problems": 20, "k": 4, "max_tokens": 8}],
        "shard_rows": 2,
        "seed": 3,
    }
    path.write_text(yaml.safe_dump(content))
    done = command("train", path, "--output_dir", folder / "whole", fresh=True)
    assert done.returncode == 0, done.stderr
    return path, folder / "whole", done


def without_place(evaluation: dict) -> dict:
    return {key: value for key, value in evaluation.items() if key != "model"}


def test_the_command_ends_with_a_table_and_the_directory(whole):
    _, directory, done = whole
    assert "Miniature" in done.stdout and "pass@1" in done.stdout and "problems 20 instead of 200" in done.stdout
    assert done.stdout.rstrip().endswith(str(directory)) and (directory / "report.html").is_file()
    assert files.read_json(directory / "summary.json")["completions"] == 80


def test_a_killed_evaluation_ends_with_the_same_figures(whole, tmp_path):
    path, directory, _ = whole
    words = ["-m", "open_r1.cli", "train", path, "--output_dir", tmp_path / "run"]
    process = warm.Popen(words, cwd=ROOT, stdout=warm.DEVNULL, stderr=warm.PIPE)
    while process.poll() is None and len(list((tmp_path / "run" / "data").glob("*.parquet"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 3 <= len(list((tmp_path / "run" / "data").glob("*.parquet"))) < 10
    assert not (tmp_path / "run" / "evaluations").exists()
    done = command("train", path, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert judged(tmp_path / "run") == judged(directory)
    assert without_place(told(tmp_path / "run", "tiny")) == without_place(told(directory, "tiny"))


def test_the_parts_of_an_array_make_the_same_figures(whole, tmp_path):
    path, directory, _ = whole
    words = ["--output_dir", tmp_path / "run", "--parts", "2", "--part"]
    first = command("train", path, *words, "0")
    assert first.returncode == 0 and "5 of 10 files are left to the others" in first.stdout
    assert not (tmp_path / "run" / "evaluations").exists()
    assert command("train", path, *words, "1").returncode == 0
    assert without_place(told(tmp_path / "run", "tiny")) == without_place(told(directory, "tiny"))


@pytest.fixture
def judge(measure, tmp_path):
    """`judge(completions, k=2)` evaluates completions that were made elsewhere; its directory."""

    def main(completions: list[dict], *overrides: str, **keys: object):
        path = written(tmp_path / "completions.jsonl", completions)
        keys = {"model_name_or_path": ..., "engine": ..., "completions": path} | keys
        return measure(*overrides, **keys)

    return main


def boxed(number: object) -> str:
    return f"<think> so </think> \\boxed{{{number}}}"


ELSEWHERE = [
    {"id": f"p{i}", "completion": boxed(3 * i + (k > i)), "tokens": 10 + k} for i in range(PROBLEMS) for k in range(K)
]


def test_completions_made_elsewhere_are_judged_without_a_model(judge):
    directory = judge(ELSEWHERE, report=True)
    figures = told(directory)
    assert figures["engine"] == "elsewhere" and figures["samples"] == PROBLEMS * K
    right = [min(i + 1, K) / K for i in range(PROBLEMS)]
    assert figures["metrics"]["pass@1"]["value"] == pytest.approx(mean(right))
    assert figures["tokens"]["mean"]["value"] == pytest.approx(11.5)
    assert figures["departures"]["temperature"] == [0.6, "unknown"] and figures["protocol"]["prompt"] is None
    assert figures["protocol"]["top_k"] is None
    assert (directory / "report.html").is_file()


def test_they_may_be_lists_beside_the_prompt_and_without_lengths(judge):
    rows = [
        {"prompt": problem["prompt"], "completion": [boxed(problem["solution"]), boxed(-1), None]}
        for problem in rows_of_problems()
    ]
    figures = told(judge(rows, "--k", "3", "--metrics", "pass@1"))
    assert figures["metrics"]["pass@1"]["value"] == 0.5
    assert figures["shares"]["refused"]["value"] == pytest.approx(1 / 3)
    assert figures["tokens"]["mean"]["value"] is None


@pytest.mark.parametrize("keys", [{"problems": 3}, {"benchmark": {"problems": 3, "k": 2, "metrics": ["pass@1"]}}])
def test_of_a_part_of_the_problems_the_other_completions_are_left_out(judge, keys):
    figures = told(judge(ELSEWHERE, **keys))
    assert [problem["id"] for problem in figures["by_problem"]] == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ELSEWHERE[1:], "1 of 7 problems of sums have fewer than 4 completions, p0 first; `--k 3` takes what all"),
        (ELSEWHERE[K:], "p0 first; 1 have none; --problems N measures the first N only"),
        ([*ELSEWHERE, {"id": "q", "completion": "", "tokens": 1}], "1 rows belong to no problem of the benchmark"),
        ([{"completion": "4"}], "`id` or `prompt` must say which problem a row answers"),
        ([{"id": "p0", "answer": "4"}], "needs the columns completion; it has id, answer"),
    ],
)
def test_completions_that_leave_problems_out_are_refused(judge, rows, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        judge(rows)


def test_other_completions_are_another_run(judge):
    directory = judge(ELSEWHERE)
    files.write_json(directory / "status.json", {"state": "interrupted"})
    with pytest.raises(RecipeError, match=r"completions .* changed since"):
        judge([row | {"completion": boxed(0)} for row in ELSEWHERE])


def test_the_command_takes_a_file_of_completions(tmp_path):
    path = written(tmp_path / "answers.jsonl", ELSEWHERE)
    _, words = local.plan_evaluation(path, ["aime24"], [])
    assert words[:2] == ["--completions", path] and "runs/answers/evaluate/aime24" in words


def test_a_refused_rejudge_leaves_the_run_as_it_was(measure):
    directory = measure()
    recipe, figures = (directory / "recipe.yaml").read_text(), told(directory)
    with pytest.raises(RecipeError, match="needs the column 'tests'"):
        measure("--rejudge", benchmark={"verifier": "code", "metrics": ["pass@1"]})
    assert (directory / "recipe.yaml").read_text() == recipe and told(directory) == figures
    files.write_json(directory / "status.json", {"state": "failed"})
    measure()
    assert told(directory) == figures


def test_lost_or_doubled_verdicts_change_no_figure_in_silence(measure):
    directory = measure()
    path = sorted((directory / "judged").glob("*.parquet"))[0]
    [rows] = shards.read_file(path)
    for changed in (rows[1:], rows + rows):
        files.write_json(directory / "status.json", {"state": "interrupted"})
        shards.write_file(path, [changed], grading.FEATURES)
        with pytest.raises(RecipeError, match="do not have one verdict for each of their 4 samples, 'p0' first"):
            measure()


def test_damaged_verdicts_are_made_again_and_damaged_completions_told_of(measure):
    directory = measure()
    figures = told(directory)
    for folder, message in (("judged", None), ("data", "is damaged")):
        path = sorted((directory / folder).glob("*.parquet"))[0]
        content = bytearray(path.read_bytes())
        content[10:60] = bytes(50)  # a page, not the footer
        path.write_bytes(content)
        files.write_json(directory / "status.json", {"state": "interrupted"})
        if message is None:
            measure()
            assert told(directory) == figures
        else:
            with pytest.raises(RecipeError, match=message):
                measure()
    files.write_json(directory / "status.json", {"state": "interrupted"})
    features = evaluate.datasets.Features({k: v for k, v in evaluate.COLUMNS.items() if k != "model"})
    shards.write_file(path, [[]], features)
    with pytest.raises(RecipeError, match="has no column 'model'"):
        measure()


def test_a_damaged_file_of_a_finished_run_takes_its_verdicts_with_it(measure, write_recipe):
    directory = measure()
    name = sorted(path.name for path in (directory / "data").glob("*.parquet"))[1]
    (directory / "data" / name).write_bytes(b"PAR1")
    recipe = load_recipe(next(directory.parent.glob("recipes/small/evaluate/*.yaml")))
    assert not local.has_finished_run(recipe)
    assert not (directory / "judged" / name).exists() and files.read_status(directory)["state"] == "interrupted"


def test_rows_keep_their_places_however_many_are_read_at_once(measure, monkeypatch):
    whole = told(measure())
    monkeypatch.setattr(evaluation_problems, "READ_ROWS", 2)
    assert told(measure("--overwrite")) == whole


def test_the_identity_is_that_of_ids_prompts_and_golds(tmp_path):
    def identity(**change: str) -> str:
        rows = rows_of_problems()
        rows[3] |= change
        source = written(tmp_path / "changed.jsonl", rows)
        return load_problems(schema.BenchmarkConfig("sums", [DatasetConfig(source)]), 0).identity

    others = [identity(id="q"), identity(prompt="What is 1 + 1?"), identity(solution="5")]
    assert len({identity(), *others}) == 4 and identity(level="hard") == identity()


def test_format_and_language_are_those_of_the_completion():
    grader = grading.Grader(RewardConfig("accuracy"))
    texts = [
        "<think> the sum is even </think> \\boxed{2}",
        "no tags at all \\boxed{2}",
        "<think> 这 是 一 个 </think> 2",
    ]
    rows = [
        {"row": 0, "sample": k, "prompt": "?", "solution": "2", "language": "en", "completion": text, "tokens": 5}
        | {"finish_reason": "stop", "refused": None}
        for k, text in enumerate(texts)
    ]
    found = grader.grade(rows)
    assert [row["format"] for row in found] == [1.0, 0.0, 1.0]
    assert found[0]["language"] == 1.0 and found[2]["language"] < 0.5


def test_long_answers_are_cut_and_still_told_apart():
    grader = grading.Grader(RewardConfig("accuracy"))
    digits = "7" * 5000
    rows = [
        {"row": 0, "sample": k, "prompt": "?", "solution": "2", "completion": f"\\boxed{{{digits}{end}}}", "tokens": 5}
        | {"finish_reason": "stop", "refused": None}
        for k, end in enumerate((1, 1, 2))
    ]
    votes = [row["vote"] for row in grader.grade(rows)]
    assert votes[0] == votes[1] != votes[2] and max(map(len, votes)) < 300


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "p0", "completion": [{"role": "assistant", "content": "4"}]}], "`completion` must be a text"),
        ([{"id": "p0", "completion": 4}], "`completion` must be a text"),
        (
            [{"id": f"p{i}", "completion": ["1"] * K, "tokens": [1]} for i in range(PROBLEMS)],
            "row 0: 'tokens' has 1 values, fewer than there are completions",
        ),
    ],
)
def test_completions_of_another_shape_are_refused(judge, rows, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        judge(rows)


def test_completions_beyond_k_are_told_of(judge, capsys):
    judge(ELSEWHERE, "--k", "3", "--metrics", "pass@1")
    out = capsys.readouterr().out
    assert (
        out.startswith("21 completions of completions") and "7 more, beyond the first of each problem, are not" in out
    )


def test_completions_made_elsewhere_are_judged_whole_at_toy_size(judge):
    assert told(judge(ELSEWHERE, "--toy"))["samples"] == PROBLEMS * K


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seed": -1}, "seed: a number from 0"),
        ({"benchmarks": [{"name": "tiny", "k": 10**9}]}, "benchmarks.0.k: 1 or more, and at most 10,000"),
        ({"benchmarks": [{"name": "..", "datasets": ["x.jsonl"]}]}, "a name of at most 100 letters"),
        ({"benchmarks": [{"name": "a" * 300, "datasets": ["x.jsonl"]}]}, "a name of at most 100 letters"),
    ],
)
def test_values_that_could_only_be_a_slip(write_recipe, keys, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(write_recipe("evaluate", **keys))


def test_a_reference_that_is_none_is_refused_before_anything_is_sampled(measure, monkeypatch):
    monkeypatch.setattr(registry, "open_engine", lambda recipe: pytest.fail("nothing is to be sampled"))
    with pytest.raises(RecipeError, match="did you mean 'students'"):
        measure(reference="studnets")
    with pytest.raises(RecipeError, match="did you mean 'DeepSeek-R1-Distill-Qwen-7B'"):
        measure(reference="students/DeepSeek-R1-Distil-Qwen-7B")


def test_published_figures_stand_below_the_table(measure, capsys):
    benchmark = {"name": "math500", "problems": PROBLEMS, "prompt": "boxed", "metrics": ["pass@1"]}
    measure(benchmark=benchmark, reference="students/DeepSeek-R1-Distill-Qwen-7B")
    out = capsys.readouterr().out
    assert "beside what was published" in out and "92.8%" in out
    measure("--overwrite", reference="students")
    assert "students has no figure of these benchmarks and metrics" in capsys.readouterr().out


def test_a_finished_evaluation_is_shown_again(measure, write_recipe, capsys):
    directory = measure()
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sums")]
    path = str(next(directory.parent.glob("recipes/small/evaluate/*.yaml")))
    local.run_recipe(path, [])
    out = capsys.readouterr().out
    assert table[0] in out and "this run is finished already" in out


def test_other_metrics_of_a_finished_run_are_a_matter_of_judging_again(measure):
    measure()
    with pytest.raises(RecipeError, match="add --rejudge to judge the stored completions by this one"):
        measure("--metrics", "pass@3")
    with pytest.raises(RecipeError) as refused:
        measure("--k", "2", "--metrics", "pass@1")
    assert "--rejudge" not in str(refused.value)


def test_problems_are_told_by_their_questions(measure):
    assert told(measure())["by_problem"][2]["question"] == "What is 2 + 4?"


def test_a_run_that_is_not_there_is_no_hub_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny" / "sft" / "base").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "sft" / "base" / "recipe.yaml").write_text("{}")
    with pytest.raises(RecipeError, match="no run or file runs/tiny/sft/bse; did you mean 'runs/tiny/sft/base'"):
        local.plan_evaluation("runs/tiny/sft/bse", ["tiny"], [])
    with pytest.raises(RecipeError, match=r"no run or file answers\.jsonl"):
        local.plan_evaluation("answers.jsonl", ["tiny"], [])
