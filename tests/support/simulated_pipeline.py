"""A pipeline's directory as it would be left behind: the figures are drawn, their files are those of real stages."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml
from support.simulated import evaluation, put_evaluation, samples

Json = dict[str, Any]

PROBLEMS = 40
EXAMPLE = "<script>alert(1)</script>"
INPUTS = {"model": [], "data": [], "reward_model": []}
# name, task, step, inputs; in the order of the file
STAGES: list[tuple[str, str, str, Json]] = [
    ("base", "sft", "0", {}),
    ("zero", "grpo", "0", {"model": ["base"]}),
    ("zero_samples", "sample", "1", {"model": ["zero"]}),
    ("cold_start_data", "select", "1", {"data": ["zero_samples"]}),
    ("cold_start", "sft", "1", {"model": ["base"], "data": ["cold_start_data"]}),
    ("reasoning", "grpo", "2", {"model": ["cold_start"]}),
    ("preferences", "select", "4", {"data": ["zero_samples"]}),
    ("aligned", "dpo", "4", {"model": ["reasoning"], "data": ["preferences"]}),
    ("preference_model", "reward", "4", {"data": ["preferences"]}),
    ("r1", "grpo", "4", {"model": ["aligned"], "reward_model": ["preference_model"]}),
    ("measured.base", "evaluate", "", {"model": ["base"]}),
    ("measured.zero", "evaluate", "", {"model": ["zero"]}),
    ("measured.reasoning", "evaluate", "", {"model": ["reasoning"]}),
    ("measured.r1", "evaluate", "", {"model": ["r1"]}),
]
RATES = {"base": 0.15, "zero": 0.8, "reasoning": 0.9, "r1": 0.9}  # of solved samples
TALK = {"base": 0.5, "zero": 0.1, "reasoning": 0.1, "r1": 0.95}
LENGTHS = {"base": 9, "zero": 26, "reasoning": 24, "r1": 24}  # tokens
TABLE = [
    {
        "says": "Pure RL makes a base model solve more, and answer longer.",
        "paper": "AIME 2024 pass@1 15.6 -> 77.9",
        "source": "arXiv 2501.12948v2, 2.3",
        "shows": [
            {"figure": "pass@1", "of": "measured.zero", "above": "measured.base"},
            {"figure": "mean_length", "of": "measured.zero", "above": "measured.base"},
        ],
    },
    {
        "says": "The last phase brings back the chat.",
        "shows": [
            {"figure": "pass@1", "of": "measured.r1", "benchmark": "talk", "above": "measured.reasoning"},
            {"figure": "pass@1", "of": "measured.r1", "not_below": "measured.reasoning", "by": 0.2},
        ],
    },
    {
        "says": "RL makes answers shorter.",
        "shows": [{"figure": "mean_length", "of": "measured.zero", "below": "measured.base"}],
    },
    {
        "says": "The cold start steadies the beginning.",
        "shows": [{"figure": "spread", "metric": "reward", "steps": [1, 20], "of": "zero", "above": "reasoning"}],
    },
    {"says": "Rejection sampling keeps what is right.", "shows": [{"figure": "funnel", "of": "cold_start_data"}]},
]


def build(
    root: Path,
    seeds: Sequence[int] = (0, 1, 2),
    states: dict[str, str] | None = None,
    table: list[Json] | None = None,
    stages: Sequence[tuple[str, str, str, Json]] = tuple(STAGES),
    once: Sequence[str] = ("preference_model",),
) -> Path:
    """Write `runs/pipelines/made` and the run directories of its stages.

    Args:
        root: of the `runs` folder.
        seeds: of the pipeline.
        states: of stages that have not simply finished; those that never ran have no run directory.
        table: of claims.
        stages: as `STAGES`.
        once: stages of a seed of their own, which all seeds share.

    Returns:
        The pipeline's directory.
    """
    pipeline = root / "runs" / "pipelines" / "made"
    pipeline.mkdir(parents=True)
    told = [
        _stage(
            pipeline, name, task, step, INPUTS | inputs, 7 if name in once else seed, seed, (states or {}).get(name)
        )
        for seed in seeds
        for name, task, step, inputs in stages
    ]
    table = TABLE if table is None else table
    (pipeline / "pipeline.yaml").write_text(yaml.safe_dump({"title": "Made up", "table": table}))
    state = {"pipeline": "recipes/pipelines/made.yaml", "title": "R1, simulated", "state": "finished"}
    state |= {"began": 1.0, "ended": 700.0, "seconds": 699.0, "peak_memory": 3 * 2**30, "commit": "0123456789abcdef"}
    state |= {"seeds": list(seeds), "jobs": 2, "cores": 2, "gpus": 0, "stages": told}
    (pipeline / "state.json").write_text(json.dumps(state))
    return pipeline


def _stage(
    pipeline: Path, name: str, task: str, step: str, inputs: Json, seed: int, of: int, state: str | None
) -> Json:
    state = state or "finished"
    folder = pipeline.parents[1] / "stages" / f"made-{task}-{name}-{seed}"
    view = pipeline / f"seed={of}" / name
    if state not in ("waiting", "blocked", "skipped"):
        if not folder.exists():
            _run(folder, name, task, seed)
        view.parent.mkdir(exist_ok=True)
        view.symlink_to(Path("../../../stages") / folder.name)
    log = pipeline / "logs" / f"{name}--seed={of}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("".join(f"line {i} {EXAMPLE}\n" for i in range(40)))
    return {
        "name": name,
        "seed": of,
        "title": f"{name} in words",
        "step": step or None,
        "task": task,
        "recipe": f"recipes/made/{task}/{name}.yaml",
        "inputs": inputs,
        "dir": f"runs/stages/{folder.name}",
        "view": f"seed={of}/{name}",
        "log": log.relative_to(pipeline).as_posix(),
        "state": state,
        "seconds": 30.0 + seed if state in ("finished", "cached") else None,
        "gpus": 0,
        "error": "RecipeError: it was made to fail" if state == "failed" else None,
        "why": None,
        "began": 1.0,
        "ended": 31.0,
    }


def _run(folder: Path, name: str, task: str, seed: int) -> None:
    chance = random.Random(f"{name} {seed}")
    folder.mkdir(parents=True)
    recipe = {"task": task, "seed": seed, "max_steps": 60, "per_device_train_batch_size": 128}
    if task == "evaluate":
        recipe |= {"benchmarks": [{"name": "sums"}, {"name": "talk"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "report.html").write_text("a report")
    _put(folder / "environment.json", {"threads": 1, "processes": 1, "gpus": [], "commit": "0123456789"})
    _put(folder / "status.json", {"state": "finished", "seconds": 30.0})
    if task == "evaluate":
        model = name.removeprefix("measured.")
        _evaluate(folder, "sums", "Sums", RATES.get(model, 0.5), LENGTHS.get(model, 20), seed, chance)
        _evaluate(folder, "talk", "Small talk", TALK.get(model, 0.5), 6, seed, chance)
        _put(folder / "summary.json", {"completions": 320, "tokens": 320 * LENGTHS.get(model, 20)})
    elif task == "sample":
        _put(folder / "summary.json", {"prompts": 100, "completions": 400, "tokens": 8000})
    elif task == "select":
        kept = 380 + chance.randrange(20)
        steps = [
            _step("sampled", 400, 0, 100),
            _step("correct", kept, 400 - kept, 98),
            _step("selected", 200, kept - 200, 98),
        ]
        _put(folder / "funnel.json", {"steps": steps})
        _put(folder / "summary.json", {"rows": 200, "sampled": 400})
    else:
        rows = [_training_row(task, name, step, chance) for step in range(1, 61)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _put(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value))


def _step(name: str, kept: int, dropped: int, prompts: int) -> Json:
    return {"name": name, "kept": kept, "dropped": dropped, "prompts": prompts, "reasons": {"wrong": dropped}}


def _training_row(task: str, name: str, step: int, chance: random.Random) -> Json:
    row: Json = {"step": step, "seconds": step / 2, "num_tokens": 1000.0 * step}
    if task == "grpo":
        noise = 0.2 if name == "zero" else 0.01
        share = min(1.0, max(0.0, step / 60 + chance.gauss(0, noise)))
        row |= {"reward": 2 * share, "rewards/accuracy/mean": share, "completions/mean_length": 10 + 16 * step / 60}
        return row | ({"evaluation/pass@1": share, "evaluation/maj@4": share} if step % 20 == 0 else {})
    row["loss"] = 3 / step + chance.gauss(0, 0.05)
    return row | {"rewards/accuracies": 1 - 1 / step} if task == "dpo" else row


def _evaluate(folder: Path, name: str, title: str, rate: float, tokens: int, seed: int, chance: random.Random) -> None:
    """An evaluation and the files of its completions."""
    rates_P = [min(1.0, max(0.0, rate + (p / PROBLEMS - 0.5) * 0.2)) for p in range(PROBLEMS)]
    judged_PK = samples(rates_P, 8, chance.randrange(2**31))
    for p, judged_K in enumerate(judged_PK):
        for row in judged_K:
            row |= {"tokens": tokens + p % 3, "finish_reason": "stop", "language": chance.random(), "benchmark": name}
    found = evaluation(judged_PK, name=name, title=title, seed=seed)
    for problem in found["by_problem"]:
        problem["question"] = f"question {problem['row']} of {name}"
    put_evaluation(folder, found)
    rows = [row for judged_K in judged_PK for row in judged_K]
    texts = [row | {"completion": f"<think> {row['verdict']} by {folder.name} </think> {EXAMPLE}"} for row in rows]
    for kind, table in (("data", texts), ("judged", rows)):
        (folder / kind).mkdir(exist_ok=True)
        kept = pyarrow.Table.from_pylist(table)
        pyarrow.parquet.write_table(kept, folder / kind / f"train-{name}.parquet")
