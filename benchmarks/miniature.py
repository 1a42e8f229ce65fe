"""Run the miniature and store what the documents say of it.

    python benchmarks/miniature.py zero [--seeds 0 1 2 3 7] [--work FOLDER]
    python benchmarks/miniature.py language|data [--work FOLDER]
    python benchmarks/miniature.py r1_tiny [--work FOLDER]    # or another pipeline of recipes/pipelines

Every training is the command of the README, in FOLDER: by default a temporary one, in which all is trained anew. A
finished run in FOLDER is read and not repeated. `zero` is recipes/tiny/grpo/r1_zero.yaml for each seed, and draws
recipes/tiny/r1_zero.png from the run of the first one; `language` is its r1_language.yaml with seed 0; `data` is
recipes/tiny/mix/r1_sft.yaml. The seconds are those of the run and of the run of its base model, from the start of each
process; `--shared` says that other jobs slowed them.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import documents
import record
from safetensors import safe_open

from open_r1.evaluation.metrics import summarize_evaluation
from open_r1.evaluation.over_seeds import compute_mean
from open_r1.report.curves import plot_accuracy, plot_length
from open_r1.report.plots import LARGE, write_png
from open_r1.report.run_report import format_before_after

Json = dict[str, Any]
PICTURE = documents.ROOT / "recipes" / "tiny" / "r1_zero.png"
ZERO, LANGUAGE, DATA = (f"recipes/tiny/{name}.yaml" for name in ("grpo/r1_zero", "grpo/r1_language", "mix/r1_sft"))


def read(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


def train(work: Path, recipe: str, *words: str) -> Path:
    """Run `open-r1 train` in a folder; the run directory, which it prints last."""
    command = [str(Path(sys.executable).with_name("open-r1")), "train", recipe, *words]
    done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return work / done.stdout.split()[-1]


def origin(run_dir: Path) -> Json:
    """Commit, command, machine and date of a run."""
    ended = datetime.datetime.fromtimestamp((run_dir / "status.json").stat().st_mtime, datetime.UTC)
    return read(run_dir / "environment.json") | {"date": ended.isoformat(timespec="seconds")}


def summary(run_dir: Path) -> Json:
    """Values before and after a training, by metric, and the table that it printed."""
    found = read(run_dir / "summary.json")
    values = {side: {key: figure["value"] for key, figure in found[side].items()} for side in ("before", "after")}
    return {"seed": found["seed"], "seconds": found["seconds"]} | values


def parameters(weights: Path) -> int:
    with safe_open(weights, "pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def example(run_dir: Path) -> dict[str, str]:
    """The first problem that the evaluations keep, with its first sample before and after."""
    before, after = (read(run_dir / "evaluations" / f"{side}.json")["examples"][0] for side in ("before", "after"))
    samples = {"before": before["samples"][0], "after": after["samples"][0]}
    return {"prompt": before["prompt"]} | {side: sample["completion"] for side, sample in samples.items()}


def zero(work: Path, wanted: list[int]) -> Json:
    runs = {seed: train(work, ZERO, *([] if seed == 0 else ["--seed", str(seed)])) for seed in wanted}
    first = runs[wanted[0]]
    rows = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    drawn = [dataclasses.replace(draw(rows), last=rows[-1]["step"]) for draw in (plot_accuracy, plot_length)]
    write_png(drawn, LARGE, PICTURE)
    found = read(first / "summary.json")
    return {
        "machine": origin(first),
        "recipe": ZERO,
        "parameters": parameters(first / "model" / "model.safetensors"),
        "example": example(first),
        "table": format_before_after(found["before"], found["after"]),
        "seeds": [summary(run_dir) for run_dir in runs.values()],
    }


def language(work: Path) -> Json:
    run_dir = train(work, LANGUAGE)
    return {"machine": origin(run_dir), "recipe": LANGUAGE} | summary(run_dir)


def data(work: Path) -> Json:
    run_dir = train(work, DATA)
    steps = read(work / "runs/tiny/select/reasoning/funnel.json")["steps"]
    told = [step | {"why": ", ".join(f"{why} {count:,}" for why, count in step["reasons"].items())} for step in steps]
    return {"machine": origin(run_dir), "recipe": DATA, "steps": told}


def pipeline(work: Path, name: str) -> Json:
    recipe = f"recipes/pipelines/{name}.yaml"
    train(work, recipe)
    folder = work / "runs" / "pipelines" / name
    state, table = read(folder / "state.json"), read(folder / "table.json")
    measured: dict[str, dict[str, list[float]]] = {}
    for stage in (stage for stage in state["stages"] if stage["task"] == "evaluate"):
        for path in sorted((folder / stage["view"]).glob("evaluations/*.json")):
            of_model = measured.setdefault(stage["name"].partition(".")[2], {})
            for key, figure in summarize_evaluation(found := read(path)).items():
                of_model.setdefault(f"{found['name']} {key}", []).append(figure["value"])
    lines = [
        {key: line[key] for key in ("mark", "says", "paper")}
        | {"run": "; ".join(show["told"] for show in line["shows"]).replace(" measured.", " ")}
        for line in table["lines"]
    ]
    models = [
        {"model": model} | {key: cell(key, of) for key, of in values.items()} for model, values in measured.items()
    ]
    marks = dict(Counter(line["mark"] for line in lines))
    made = {"command": f"open-r1 train {recipe}", "commit": state["commit"], "seconds": state["seconds"]}
    return {"machine": record.machine() | made, "recipe": recipe, "marks": marks, "claims": lines, "models": models}


def cell(key: str, values_S: list[float]) -> str:
    """The mean over seeds with its 95% t interval; of shares in percent."""
    mean = compute_mean(values_S)
    if key.endswith("length"):
        return f"{mean['value']:.1f}"
    low, high = (min(1.0, max(0.0, mean[side])) for side in ("low", "high"))
    return f"{mean['value']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("story", help="zero, language, data, or a pipeline")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 7])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--shared", action="store_true", help="other jobs run on this machine too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "recipes").exists():
            (work / "recipes").symlink_to(documents.ROOT / "recipes")
        if arguments.story == "zero":
            name, found = "tiny_r1_zero", zero(work, arguments.seeds)
        elif arguments.story in ("language", "data"):
            name, found = f"tiny_{arguments.story}", {"language": language, "data": data}[arguments.story](work)
        else:
            name, found = arguments.story, pipeline(work, arguments.story)
    if arguments.shared:
        found["machine"]["shared"] = "beside other jobs"
    found["fingerprint"] = documents.fingerprint(found["recipe"])
    print(record.write(name, found, record.RESULTS / f"{name}.json"))


if __name__ == "__main__":
    main()
