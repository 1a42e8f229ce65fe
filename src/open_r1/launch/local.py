"""From a recipe to running processes on this machine."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.loading import outline_recipe, type_recipe
from ..config.overrides import parse_overrides
from ..config.recipe import Recipe, RecipeFile, derive_output_dir, read_recipe, read_yaml
from ..config.schema import SHARDED_TASKS, TRAINERS, find_task_module
from ..errors import RecipeError, Unavailable, suggest_nearest
from ..run.recipe_changes import check_same_recipe
from ..system import hardware, network
from ..system.files import is_finished, read_json, read_status, write_json
from . import nodes, process_group, vllm_server
from .nodes import Allocation, Layout

if TYPE_CHECKING:
    from ..run.run import Run


def run_recipe(path: str, overrides: list[str], processes: int | None = None) -> Run | None:
    """Run a recipe to its end, after the recipes it starts from if their results are missing.

    Args:
        path: the recipe.
        overrides: command-line words.
        processes: number of processes (default: `RecipeFile.processes`).

    Returns:
        The run; None if other processes ran it, which printed its results.

    Raises:
        RecipeError: see `load_recipe`; or the machine has fewer GPUs than processes.
    """
    return _run_file(read_recipe(path, overrides), processes)


def _run_file(file: RecipeFile, processes: int | None) -> Run | None:
    processes = processes or file.processes
    where = nodes.find_allocation()
    several_nodes = where is not None and where.nodes > 1
    recipe = outline_recipe(file)
    alone = processes == 1 and not (recipe.run.gpus == 1 and recipe.run.accelerate_config)
    if (alone and not recipe.run.vllm_server_gpus) or recipe.task not in TRAINERS:
        # Run by this process or a fork; the processes of a launcher type the recipe themselves.
        recipe = type_recipe(file, processes)
    if has_finished_run(recipe) and not (recipe.run.overwrite or recipe.given.get("rejudge")):
        return show_finished(recipe)
    for first in recipe.upstream:
        outline = outline_recipe(first)
        if not has_finished_run(outline):
            print(f"first {first.command}, which this one needs", flush=True)
            _run_file(first, processes if first is recipe.base else None)
            if not has_finished_run(outline):
                raise RecipeError(
                    f"{first.path} waits for the other parts of its job array; run the same command again once they "
                    "have finished"
                )
            print(f"now {file.path}", flush=True)
    if several_nodes and recipe.task not in TRAINERS:
        raise RecipeError(
            f"{file.path}: a {recipe.task} job runs on one node, and this job has {where.nodes}; share the work among "
            "the jobs of an array: sbatch --nodes=1 --array=0-7"
        )
    # DeepSpeed, which keeps the optimizer of one GPU in the host's memory, needs a launcher for one process too.
    if not alone or recipe.run.vllm_server_gpus or several_nodes:
        return run_in_processes(recipe, processes)
    return importlib.import_module(find_task_module(recipe.task)).main(recipe)


ANY_MODEL = "recipes/any/evaluate/benchmarks.yaml"


def plan_evaluation(model: str, benchmarks: list[str], overrides: list[str]) -> tuple[str, list[str]]:
    """The recipe that measures a model on benchmarks, and its overrides.

    Args:
        model: a hub name, a folder, a file of completions made elsewhere, or a run directory with a model, whose
            prompt is then used.
        benchmarks: names or files.
        overrides: command-line words; they override all others.

    Raises:
        RecipeError: there is no such run or file, or the directory has no model.
    """
    from ..data import sources

    path = Path(model)
    trained = path / "model"
    measured = "+".join(Path(benchmark).stem for benchmark in benchmarks)
    words, weights, name = [], model, Path(path.stem if path.is_file() else path.name, "evaluate", measured)
    if (path / "recipe.yaml").is_file():
        if not trained.is_dir():
            raise RecipeError(f"{path} is a run directory without a model; finish its training first")
        prompts = ("prompt", "system_prompt")
        given = read_yaml(path / "recipe.yaml")
        words = [word for key in prompts if given.get(key) is not None for word in (f"--{key}", str(given[key]))]
        # Links are not resolved: a stage of a pipeline has the name of its link, not that of its fingerprint.
        *_, of_model, task, variant = Path(os.path.abspath(path)).parts
        weights, name = str(trained), Path(of_model, "evaluate", f"{task}-{variant}+{measured}")
    elif not path.exists() and (path.suffix in sources.BUILDERS or model.startswith((".", "/", "~", "runs/"))):
        known = sorted(str(found.parent) for found in Path("runs").glob("*/*/*/recipe.yaml"))
        raise RecipeError(f"there is no run or file {model}{suggest_nearest(model, known)}")
    elif path.is_dir() and not (path / "config.json").is_file():
        raise RecipeError(f"{path} has neither a model (config.json) nor a run (recipe.yaml)")
    directory = derive_output_dir(name.with_name(f"{name.name}.yaml"), "evaluate", parse_overrides(overrides))
    key = "completions" if path.suffix in sources.BUILDERS else "model_name_or_path"
    words += [f"--{key}", weights, "--benchmarks", *benchmarks, "--output_dir", directory]
    return ANY_MODEL, [*words, *_choose_engine(overrides), *overrides]


def _choose_engine(overrides: list[str]) -> list[str]:
    """vLLM if it is installed and there is a GPU, unless the overrides name an engine."""
    import torch

    chosen = any(word.startswith(("--engine", "--toy")) for word in overrides)
    there = torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None
    return ["--engine.name", "vllm"] if there and not chosen else []


def has_finished_run(recipe: Recipe) -> bool:
    """True if the recipe's run directory holds its finished run.

    Raises:
        RecipeError: another recipe began the directory.
    """
    if not is_finished(recipe.run_dir):
        return False
    if recipe.task in SHARDED_TASKS and _lacks_files(recipe):
        return False
    if not recipe.run.overwrite:
        check_same_recipe(recipe)
    return True


def _lacks_files(recipe: Recipe) -> bool:
    """True if files of a finished data task cannot be read; the run is then marked as interrupted."""
    from ..data import shards

    folders = ("data", "judged") if recipe.task == "evaluate" else ("data",)
    damaged = {name for folder in folders for name in shards.find_damaged_files(recipe.run_dir / folder)}
    if damaged:
        print(f"{', '.join(sorted(damaged))} of {recipe.run_dir} cannot be read, and is made again", flush=True)
        if recipe.task == "evaluate":
            # The verdicts belong to the completions that are lost.
            for name in damaged:
                (recipe.run_dir / "judged" / name).unlink(missing_ok=True)
        write_json(recipe.run_dir / "status.json", read_status(recipe.run_dir) | {"state": "interrupted"})
    return bool(damaged)


def show_finished(recipe: Recipe) -> Run:
    """Print the results of a finished run, and change nothing."""
    from ..report import run_report
    from ..run import run

    done = run.Run(recipe, recipe.run_dir)
    summary = done.dir / "summary.json"
    shown = read_json(summary) if summary.is_file() else {}
    if recipe.task == "evaluate":
        paths = [done.dir / "evaluations" / f"{benchmark.name}.json" for benchmark in recipe.args.benchmarks]
        done.say(run_report.format_evaluations([read_json(path) for path in paths]))
    if "before" in shown:
        done.say(run_report.format_before_after(shown["before"], shown["after"]))
    done.say("this run is finished already; add --overwrite to run it again, or choose another --output_dir")
    return done


def run_in_processes(recipe: Recipe, processes: int) -> None:
    """Start a task in several processes by accelerate, and wait for them."""
    where = nodes.find_allocation()
    gpus = 0 if recipe.run.toy else recipe.run.gpus
    places = nodes.plan_layout(where, processes, gpus, recipe.run.vllm_server_gpus)
    machines = len(places.trainers)
    if gpus:
        _require_gpus(processes // machines + (recipe.run.vllm_server_gpus if places.server == 0 else 0))
    words = ["--config", str(recipe.path), *recipe.overrides]
    name = recipe.run.accelerate_config or ("ddp" if recipe.run.gpus else "cpu")
    with _server(recipe, where, places) as (around, watch):
        place = process_group.Place()
        if where and machines > 1:
            place = process_group.Place(
                machines, 0, network.find_reachable(network.list_addresses()), network.find_free_port()
            )
            order = {"module": find_task_module(recipe.task), "words": words, "config": name, "processes": processes}
            order |= {"hosts": network.list_addresses(), "port": place.port, "environment": around}
            nodes.send_order(where.start, places.trainers[1:], "run", **order)
        command = process_group.build_command(find_task_module(recipe.task), words, name, processes, place)
        code, received = process_group.run_launcher(
            command, process_group.build_environment(processes, machines) | around, watch
        )
    if received or (code == 0 and read_status(recipe.run_dir).get("state") == "interrupted"):
        sys.exit(128 + (received or signal.SIGTERM))  # process 0 has printed where it stopped
    if code:
        sys.exit(code)


def _require_gpus(count: int) -> None:
    import torch

    there = torch.cuda.device_count()
    if there == 0:
        raise RecipeError(
            f"gpus: {count} processes need as many GPUs, and torch sees none on {network.find_node_name()}: check "
            "the driver (nvidia-smi), and that this torch is built for CUDA; to try it without a GPU, add --toy"
        )
    if there < count:
        raise RecipeError(
            f"gpus: {count} processes need as many GPUs and this machine has {there}; set --gpus {there} "
            "(raise gradient_accumulation_steps to keep the batch), or add --toy"
        )


@contextlib.contextmanager
def _server(
    recipe: Recipe, where: Allocation | None, places: Layout
) -> Iterator[tuple[dict[str, str], Callable[[], None] | None]]:
    """A vLLM server while the block runs, if the recipe starts one.

    Yields:
        Variables for the training's environment, and a function that raises once a server on this node has died.
    """
    count = recipe.run.vllm_server_gpus
    if not count:
        yield {}, None
        return
    folder = where.start if where else Path(tempfile.mkdtemp(prefix="open-r1-vllm-"))
    words = vllm_server.build_training_command(recipe.given, count)
    own, around = {"VLLM_SERVER_DEV_MODE": "1"}, {}
    process, watch = None, None
    if places.server == 0:
        # The server has the last GPUs of this machine.
        visible = hardware.list_visible_gpus()
        own |= {"CUDA_VISIBLE_DEVICES": ",".join(visible[-count:])} if visible else {}
        around |= {"CUDA_VISIBLE_DEVICES": ",".join(visible[:-count])} if visible else {}
        process = vllm_server.start_server(words, folder, os.environ | own)
        watch = vllm_server.build_watcher(process, folder)
    elif where:
        restarts = recipe.run.vllm_server_restart
        nodes.send_order(where.start, [places.server], "serve", words=words, environment=own, restarts=restarts)
    try:
        print(f"waiting for the vLLM server; its log is {folder / vllm_server.LOG}", flush=True)
        address = vllm_server.wait_until_healthy(
            folder, float(recipe.given.get("vllm_server_timeout") or 240.0), watch
        )
        print(f"the vLLM server is up at {address}", flush=True)
        # A proxy for the internet cannot reach a node.
        direct = ",".join(filter(None, [os.environ.get("NO_PROXY"), urllib.parse.urlparse(address).hostname]))
        around |= {
            network.VLLM_SERVER: f"{address} {network.find_free_port()}",
            "NO_PROXY": direct,
            "no_proxy": direct,
        }
        yield around, watch
    except Unavailable as error:
        if not recipe.run.vllm_server_restart:
            raise RecipeError(f"{error} (vllm_server_restart is false)") from error
        raise
    finally:
        vllm_server.stop_server(process)
