"""The README's commands are real: its targets, recipes, files and options exist, and its overrides resolve."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from conftest import ROOT, shared

from open_r1.benchmarks import registry
from open_r1.config.loading import build_config, load_recipe
from open_r1.config.overrides import format_overrides, parse_overrides
from open_r1.config.schema import DataConfig
from open_r1.engines.registry import ENGINES
from open_r1.errors import RecipeError
from open_r1.estimate import estimate, workload
from open_r1.evaluation.reference.files import list_references
from open_r1.filters.registry import FILTERS, FilterConfig, check_filters, find_filter
from open_r1.launch import local, nodes
from open_r1.pipeline import graph, plan
from open_r1.rewards.judge_file import judge_file
from open_r1.rewards.registry import REWARDS, RewardConfig, check_rewards
from open_r1.slurm import commands, request, submit

README = (ROOT / "README.md").read_text()
OF_BENCHMARKS = (ROOT / "benchmarks/README.md").read_text()
OF_REWARDS = (ROOT / "src/open_r1/rewards/README.md").read_text()
OF_DATA = (ROOT / "recipes/DATA.md").read_text()
OF_EVALUATION = (ROOT / "recipes/EVALUATION.md").read_text()
OF_PIPELINES = (ROOT / "recipes/PIPELINES.md").read_text()
OF_RECIPES = (ROOT / "recipes/README.md").read_text()
OF_SLURM = (ROOT / "slurm/README.md").read_text()
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(
        r"```sh\n(.*?)```",
        "".join([README, OF_BENCHMARKS, OF_REWARDS, OF_DATA, OF_EVALUATION, OF_PIPELINES, OF_RECIPES, OF_SLURM]),
        re.DOTALL,
    )
    for line in block.splitlines()
    if line.strip()
] + re.findall(r"`(sbatch [^`]+\.slurm [^`]+)`", OF_SLURM)
NODES_OF_EIGHT = commands.Partition("gpu", gpus=8, cpus=96, memory=10**6, nodes=64, limit=None)
JUDGED = {
    "accuracy": {"answer": "\\frac12", "solution": "0.5"},
    "code": {"answer": "print(2)", "tests": '[{"input": "", "output": "2"}]'},
}


def test_there_are_commands():
    assert {"make install", "make train", "make test", "make lint", "make test-long"} <= set(COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    if words[1] == "judge":
        name, files = words[2], {word: tmp_path / words[words.index(word) + 1] for word in ("--input", "--output")}
        files["--input"].write_text(json.dumps(JUDGED[name]) + "\n")
        if files["--input"].suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([JUDGED[name]]), files["--input"])
        assert judge_file(name, *files.values(), parse_overrides(words[7:]))["correct"] == 1
        return
    if words[1] in ("evaluate", "compare", "reference"):
        check_measuring(words, tmp_path)
        return
    if words[0] in ("git", "cp", "export") or words[0].endswith("/hf"):
        assert all(
            (ROOT / word).exists() for word in words if word.startswith("slurm/") and word.endswith(".example.sh")
        )
        return
    if words[0] == "sbatch":
        check_sbatch(words)
        return
    if words[0] == ".venv/bin/python":
        check_script(words)
        return
    if words[1] == "status":
        made_by = words[2].removeprefix("RUN=").replace("runs/", "recipes/") + ".yaml"
        assert (ROOT / made_by).is_file()
        return
    if words[1] == "lineage":
        assert (ROOT / "recipes" / "pipelines" / f"{words[2].split('/')[2]}.yaml").is_file()
        return
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), "a target of the Makefile"
        values = dict(word.split("=", 1) for word in words[2:])
        more = {"estimate": {"GPUS"}, "install": {"EXTRAS"}}.get(words[1], set())
        assert values.keys() <= {"RECIPE", "ARGS"} | more
        recipe, overrides = values.get("RECIPE", "recipes/tiny/grpo/r1_zero.yaml"), shlex.split(values.get("ARGS", ""))
    elif "launch" in words:
        assert (ROOT / words[words.index("--config_file") + 1]).is_file() and (ROOT / words[4]).is_file()
        recipe, overrides = words[words.index("--config") + 1], []
    else:
        assert words[:2] == [".venv/bin/open-r1", "train"]
        recipe = words[2]
        overrides = words[3 : words.index("--processes")] if "--processes" in words else words[3:]
    if "gsm8k.jsonl" in line:
        overrides = [str(shared("gsm8k", "train.jsonl")) if w == "gsm8k.jsonl" else w for w in overrides] + ["--toy"]
    if words[1] == "estimate":
        gpus = {"gpus": values["GPUS"]} if "GPUS" in values else {}
        _, changes = estimate.parse_options(parse_overrides(overrides) | gpus)
        assert estimate.needs_model(workload.load_planned_recipe(recipe, changes))
        return
    if graph.is_pipeline(recipe):
        flags = {"dry_run", *submit.FLAGS}
        given = parse_overrides(request.split_options(overrides)[1])
        changes = {key: value for key, value in given.items() if key not in flags}
        read = graph.read_pipeline(Path(recipe), changes)
        if words[1] == "submit" and not read.toy and not parse_overrides(overrides).get("one_job"):
            for stage in read.stages:
                request.build_request(stage.recipe, stage.overrides, {}, NODES_OF_EIGHT)
        return
    if words[1] in ("submit", "check"):
        changes = {key: value for key, value in parse_overrides(overrides).items() if key not in submit.FLAGS}
        load_recipe(recipe, format_overrides(changes), planned=True)
        if words[1] == "submit":
            request.build_request(
                recipe, changes, {}, NODES_OF_EIGHT
            )  # nodes and GPUs that the job itself would refuse
        return
    load_recipe(recipe, overrides)


def check_script(words):
    """A script of benchmarks/ and its options, or the tests that pytest is to run."""
    if words[1] == "-m":
        assert words[2] == "pytest" and (ROOT / words[-1]).exists()
        return
    source = (ROOT / words[1]).read_text()
    assert all(f'"{word}"' in source for word in words[2:] if word.startswith("--"))


def check_sbatch(words):
    """The script is there, and a job of these nodes and GPUs runs the recipe."""
    at = next(i for i, word in enumerate(words) if word.endswith(".slurm"))
    script, recipe = (ROOT / words[at]).read_text(), words[at + 1]
    if not recipe.endswith(".yaml"):
        return
    changes = parse_overrides(words[at + 2 :])
    processes = changes.pop("processes", None)
    loaded = load_recipe(recipe, format_overrides(changes), processes, planned=True)
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script, re.MULTILINE))
    options |= dict(word.removeprefix("--").split("=", 1) for word in words[1:at])
    where = nodes.Allocation(Path(), int(options["nodes"]), 0, int(options["gpus-per-node"]))
    gpus = 0 if loaded.run.toy else loaded.run.gpus
    nodes.plan_layout(where, processes or loaded.processes, gpus, loaded.run.vllm_server_gpus)


def test_a_job_of_too_few_nodes_is_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(RecipeError, match="use sbatch --nodes=4"):
        check_sbatch(shlex.split("sbatch --nodes=2 slurm/train.slurm recipes/Qwen2.5-32B/grpo/r1_zero.yaml"))


def check_measuring(words, tmp_path):
    """`evaluate`, `compare` and `reference`: runs are those of recipes, benchmarks and references are there."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        values = dict(word.split("=", 1) for word in words[2:])
    else:
        values = {"MODEL": words[2], "BENCH": words[3], "ARGS": shlex.join(words[4:])}
    known = {"evaluate": {"MODEL", "BENCH", "ARGS"}, "compare": {"A", "B", "RUN", "REFERENCE", "ARGS"}}
    assert values.keys() <= known.get(words[1], {"RUNS", "OUTPUT"})
    for run in (values.get(key, "") for key in ("MODEL", "A", "B", "RUN")):
        if run.startswith("runs/"):
            made_by = run.partition(":")[0].partition("--")[0].replace("runs/", "recipes/") + ".yaml"
            assert (ROOT / made_by).is_file(), run
    if words[1] == "evaluate":
        model = values["MODEL"]
        if model.endswith(".jsonl"):
            (tmp_path / model).write_text("")
            model = str(tmp_path / model)
        model = "some/model" if model.startswith("runs/") else model
        load_recipe(*local.plan_evaluation(model, values["BENCH"].split(","), shlex.split(values.get("ARGS", ""))))
    if "REFERENCE" in values:
        assert values["REFERENCE"] in list_references()


def test_linked_files_exist():
    for folder, text in (
        (ROOT, README),
        *((ROOT / "recipes", text) for text in (OF_EVALUATION, OF_DATA, OF_PIPELINES, OF_RECIPES)),
        (ROOT / "slurm", OF_SLURM),
        (ROOT / "benchmarks", OF_BENCHMARKS),
    ):
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, section = target.partition("#")
            assert not path or (folder / path).exists(), target
            headings = [line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line[:1] == "#"]
            assert not section or path or section in headings, target


def test_every_benchmark_is_in_the_table_with_its_protocol():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| (\d+) \| `([\w.:]+)` \|$", OF_EVALUATION, re.MULTILINE)
    written = [registry.read_benchmark_file(name) for name in registry.list_benchmarks()]
    told = [(b["name"], f"{b['problems']:,}", str(b["k"]), b.get("verifier", "accuracy")) for b in written]
    assert rows == told


def test_the_example_of_own_benchmarks_is_valid(write_recipe):
    (example,) = re.findall(r"```yaml\n(.*?)```", OF_EVALUATION, re.DOTALL)
    recipe = load_recipe(write_recipe("evaluate", **yaml.safe_load(example)))
    assert [benchmark.name for benchmark in recipe.args.benchmarks] == ["aime24", "sums"]


def test_the_example_of_a_pipeline_can_be_planned(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (example,) = re.findall(r"```yaml\n(.*?)```", OF_PIPELINES, re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    pipeline = graph.read_pipeline(tmp_path / "example.yaml")
    assert [job.stage.name for job in plan.plan_jobs(pipeline) if job.seed == 0] == [
        "base", "small_talk", "talker", "measured.base", "measured.talker"
    ]  # fmt: skip


def test_every_engine_and_every_filter_is_in_its_table():
    tables = [part.split("\n\n")[0] for part in re.split(r"^\| (?:engine|filter) \|", OF_DATA, flags=re.MULTILINE)[1:]]
    named = [re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) for table in tables]
    assert named == [[*ENGINES], [*FILTERS]]
    for name in FILTERS:
        (row,) = re.findall(rf"^\| `{name}` \|.*\|(.*)\|$", OF_DATA, re.MULTILINE)
        parameters = [p for p in inspect.signature(find_filter(name)).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert all(f"`{p.name}`" in row for p in parameters), name
        told = [p.default for p in parameters if p.default and p.default is not p.empty]
        assert all(str(default) in row for default in told), name


def test_the_examples_of_own_filters_run(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", OF_DATA, re.DOTALL)
    (tmp_path / "own_filters_of_the_docs.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    entries = [
        FilterConfig("own_filters_of_the_docs:short_answer", parameters={"most": 3}),
        FilterConfig("own_filters_of_the_docs:not_alone"),
    ]
    check_filters(entries, [])
    short, alone = [find_filter(entry.name) for entry in entries]
    assert short("<think>a</think>four", most=3) == "long answer" and short("<think>a</think>3", most=3) is None
    assert alone([{}]) == ["too few samples"] and alone([{}, {}]) == [None, None]


def test_the_example_of_a_gate_is_valid():
    examples = re.findall(r"```yaml\n(.*?)```", OF_DATA, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        build_config(DataConfig, yaml.safe_load(example))


def test_every_reward_is_in_the_table_and_the_example_is_valid():
    assert re.findall(r"^\| `(\w+)` \|", OF_REWARDS, re.MULTILINE) == list(REWARDS)
    (example,) = re.findall(r"```yaml\nrewards:\n(.*?)```", OF_REWARDS, re.DOTALL)
    entries = [entry for entry in yaml.safe_load(example) if not entry["name"].startswith("mypackage")]
    own = {"name", "weight", "label", "kinds", "second_opinion"}
    check_rewards(
        [
            RewardConfig(
                **{k: v for k, v in e.items() if k in own}, parameters={k: v for k, v in e.items() if k not in own}
            )
            for e in entries
        ]
    )
