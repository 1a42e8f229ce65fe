"""From a recipe to running processes on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

from . import data, report, run, shards
from .configs import (
    SHARDED_TASKS,
    Recipe,
    accelerate_config,
    apply_overrides,
    default_output_dir,
    load_recipe,
    parse_overrides,
    read_yaml,
)
from .errors import RecipeError, nearest
from .processes import die_with_parent


def train(path: str, overrides: list[str], processes: int | None = None) -> run.Run:
    """Run a recipe to its end, its base first if that is missing.

    Args:
        path: the recipe.
        overrides: command-line words.
        processes: how many; None takes one on CPU, and one for each GPU the recipe is written for.

    Raises:
        RecipeError: as of `load_recipe`; or the machine has fewer GPUs than processes.
    """
    processes = processes or planned_processes(path, overrides)
    recipe = load_recipe(path, overrides, processes)
    if finished(recipe) and not (recipe.run.overwrite or recipe.given.get("rejudge")):
        return already_finished(recipe)
    for first, words in recipe.upstream:
        if not finished(load_recipe(first, words, planned=True)):
            print(f"first {' '.join([first, *words])}, which this one needs", flush=True)
            train(first, words, processes if (first, words) == recipe.base else None)
            if not finished(load_recipe(first, words, planned=True)):
                raise RecipeError(
                    f"{first} waits for the other parts of its job array; the same command goes on once they are done"
                )
            print(f"now {path}", flush=True)
    # One process too needs its launcher for DeepSpeed, to keep the optimizer of one GPU in the host's memory.
    if processes > 1 or (recipe.run.gpus == 1 and recipe.run.accelerate_config):
        return in_processes(recipe, overrides, processes)
    return importlib.import_module(module_of(recipe.task)).main(recipe)


ANY_MODEL = "recipes/any/evaluate/benchmarks.yaml"


def evaluation(model: str, benchmarks: list[str], overrides: list[str]) -> tuple[str, list[str]]:
    """The recipe that measures a model on benchmarks, and its overrides.

    Args:
        model: a hub name, a folder, a file of completions made elsewhere, or a run directory with a model; a
            training's own prompt is taken as well.
        benchmarks: names or files.
        overrides: command-line words, which come last.

    Raises:
        RecipeError: a directory that holds no model.
    """
    path = Path(model)
    trained = path / "model"
    measured = "+".join(Path(benchmark).stem for benchmark in benchmarks)
    words, weights, name = [], model, Path(path.stem if path.is_file() else path.name, "evaluate", measured)
    if (path / "recipe.yaml").is_file():
        if not trained.is_dir():
            raise RecipeError(f"{path} is a run directory without a model; was its training finished?")
        prompts = ("prompt", "system_prompt")
        given = read_yaml(path / "recipe.yaml")
        words = [word for key in prompts if given.get(key) is not None for word in (f"--{key}", str(given[key]))]
        # Not resolved: a stage of a pipeline is named by its place there, and not by its address.
        *_, of_model, task, variant = Path(os.path.abspath(path)).parts
        weights, name = str(trained), Path(of_model, "evaluate", f"{task}-{variant}+{measured}")
    elif not path.exists() and (path.suffix in data.BUILDERS or model.startswith((".", "/", "~", "runs/"))):
        known = sorted(str(found.parent) for found in Path("runs").glob("*/*/*/recipe.yaml"))
        raise RecipeError(f"there is no run or file {model}{nearest(model, known)}")
    elif path.is_dir() and not (path / "config.json").is_file():
        raise RecipeError(f"{path} holds neither a model (config.json) nor a run (recipe.yaml)")
    directory = default_output_dir(name.with_name(f"{name.name}.yaml"), "evaluate", parse_overrides(overrides))
    measured_is = "completions" if path.suffix in data.BUILDERS else "model_name_or_path"
    words += [f"--{measured_is}", weights, "--benchmarks", *benchmarks, "--output_dir", directory]
    return ANY_MODEL, [*words, *_fastest_engine(overrides), *overrides]


def _fastest_engine(overrides: list[str]) -> list[str]:
    """vLLM where there is a GPU and it is installed, unless the overrides name an engine."""
    import torch

    chosen = any(word.startswith(("--engine", "--toy")) for word in overrides)
    there = torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None
    return ["--engine.name", "vllm"] if there and not chosen else []


def module_of(task: str) -> str:
    # A module named select would hide the standard library's from a task that is started by its file.
    return f"open_r1.{'selection' if task == 'select' else task}"


def planned_processes(path: str, overrides: list[str]) -> int:
    """One for each GPU the recipe is written for; one on a CPU, at toy size, and if the engine spreads by itself."""
    read = ("engine", "gpus", "toy")
    changes = {key: value for key, value in parse_overrides(overrides).items() if key.partition(".")[0] in read}
    given = apply_overrides(read_yaml(Path(path)), changes)
    engine = given.get("engine") or {}
    if (engine.get("name") if isinstance(engine, dict) else engine) in ("vllm", "server"):
        return 1
    gpus = given.get("gpus", 0)
    return gpus if isinstance(gpus, int) and gpus > 0 and not given.get("toy") else 1


def finished(recipe: Recipe) -> bool:
    """True if the run of this name is finished, and was this recipe's."""
    if not run.is_finished(recipe.run_dir):
        return False
    folders = ("data", "judged") if recipe.task == "evaluate" else ("data",)
    damaged = {name for folder in folders for name in shards.damaged(recipe.run_dir / folder)}
    if recipe.task in SHARDED_TASKS and damaged:
        print(f"{', '.join(sorted(damaged))} of {recipe.run_dir} cannot be read, and is made again", flush=True)
        if recipe.task == "evaluate":
            # Verdicts are of those very completions.
            for name in damaged:
                (recipe.run_dir / "judged" / name).unlink(missing_ok=True)
        run.write_json(recipe.run_dir / "status.json", run.status(recipe.run_dir) | {"state": "interrupted"})
        return False
    if not recipe.run.overwrite:
        run.refuse_another_recipe(recipe)
    return True


def already_finished(recipe: Recipe) -> run.Run:
    """Say what the finished run of this name showed, and leave it alone."""
    done = run.Run(recipe, recipe.run_dir)
    summary = done.dir / "summary.json"
    shown = run.read_json(summary) if summary.is_file() else {}
    if recipe.task == "evaluate":
        paths = [done.dir / "evaluations" / f"{benchmark.name}.json" for benchmark in recipe.args.benchmarks]
        done.say(report.evaluation_table([run.read_json(path) for path in paths]))
    if "before" in shown:
        done.say(report.table(shown["before"], shown["after"]))
    done.say("this run is finished already; add --overwrite to run it again, or choose another --output_dir")
    return done


def in_processes(recipe: Recipe, overrides: list[str], processes: int) -> run.Run:
    """Start `processes` of a task by accelerate and wait for them."""
    if recipe.run.gpus and not recipe.run.toy:
        import torch

        there = torch.cuda.device_count()
        if there < processes:
            raise RecipeError(
                f"gpus: {processes} processes need as many GPUs and this machine has {there}; set --gpus {there} "
                "(raise gradient_accumulation_steps to keep the batch), or add --toy"
            )
    name = recipe.run.accelerate_config or ("ddp" if recipe.run.gpus else "cpu")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_config(name))]
    command += ["--num_processes", str(processes), "--main_process_port", "0", "-m", module_of(recipe.task)]
    command += ["--config", str(recipe.path), *overrides]
    cores = os.cpu_count() or 1
    threads = str(max(1, cores // processes))
    environment = {"OMP_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"} | os.environ
    launcher = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)
    received: list[int] = []
    # The launcher passes it on to the processes, which stop after their step with a checkpoint.
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: (received.append(15), launcher.terminate()))}
    # The terminal sends Ctrl-C to the launcher as well.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: received.append(2))
    code = launcher.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if received:
        sys.exit(128 + received[0])  # the first of the processes has said where it stopped
    if code:
        sys.exit(code)
    return run.Run(recipe, recipe.run_dir)
