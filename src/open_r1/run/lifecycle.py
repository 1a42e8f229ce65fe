"""The run directory: what every task does before and after its trainer.

`runs/<model>/<task>/<variant>/` holds recipe.yaml, environment.json, status.json, metrics.jsonl, completions/,
evaluations/, checkpoint-N/, model/, data/, plots/ and report.html. Other stages, reports and resumption read that and
nothing else. Files are written beside their name and renamed, so a kill leaves the old or the new one.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, Trainer

from ..config.defaults import CHOICE_KEYS
from ..config.loading import load_recipe
from ..config.recipe import Recipe
from ..config.schema import SHARDED_TASKS
from ..data import card, hub, shards
from ..errors import RecipeError
from ..models import save_merged_model, set_special_tokens
from ..report import run_report
from ..system import library_log, network, processes
from ..system.files import explain_full_disk, find_commit, is_finished, read_status, write_json, write_text
from ..system.locks import LOCK, lock_directory
from ..system.network import RUN, START
from ..system.processes import die_with_parent, keep_freed_memory
from . import lineage
from .checkpoints import LEAST_BYTES, prepare_resume, require_space
from .environment import check_processes, configure_wandb, describe_environment, set_threads
from .exit import run_guarded
from .job_array import stop_on_signal
from .recipe_changes import describe_changes, find_changes, refuse_another_recipe
from .run import Run

JUDGED = ("judged", "sources.json", "contamination.json", "contaminated.jsonl")  # what judging leaves


def start_run(recipe: Recipe) -> Run:
    """Check the launch and the run directory, and find where to resume.

    Raises:
        RecipeError: processes that do not know of each other, an unwritable or full disk, a directory that holds a
            finished run or another recipe's.
    """
    check_processes()
    set_threads(recipe)
    if not torch.cuda.is_available():
        keep_freed_memory()
    run = Run(recipe, recipe.run_dir)
    if run.main:
        prepare_directory(run)
    PartialState().wait_for_everyone()
    library_log.release_messages(run.dir / "library.log" if run.main else None)
    if recipe.task in SHARDED_TASKS:
        # Their files say by themselves what is done.
        run.spent = read_status(run.dir).get("seconds", 0.0)
        signal.signal(signal.SIGTERM, stop_on_signal)
    else:
        prepare_resume(run)
        configure_wandb(run)
    if run.main:
        write_json(run.dir / "environment.json", describe_environment())
    run.set_status("running")
    if run.main:
        network.write_job_note(run.dir)
    if run.main and START in os.environ:
        # For those who look after the job.
        write_text(Path(os.environ[START]) / RUN, f"{run.dir.resolve()}\n")
    return run


def run_from_command_line(main: Callable[[Recipe], Run]) -> None:
    """`python -m open_r1.grpo --config recipe.yaml [--key value ...]`: the form that accelerate launches."""
    words = sys.argv[1:]
    if "--config" not in words[:1] or len(words) < 2:
        sys.exit(f"usage: {sys.argv[0]} --config recipes/<model>/<task>/<variant>.yaml [--key value ...]")
    if "WORLD_SIZE" in os.environ:
        die_with_parent()
    if processes.WORLD in os.environ:
        processes.restore_signals()
    run_guarded(lambda: main(load_recipe(words[1], words[2:])))


def finish_training(run: Run, trainer: Trainer, tokenizer: PreTrainedTokenizerBase, base: str) -> None:
    """Save the model (merged if the recipe asks for it), declare the run finished, and write its report.

    Args:
        run: the run.
        trainer: after training.
        tokenizer: saved beside the weights.
        base: what an adapter was trained on.
    """
    model = run.dir / "model"
    adapter = run.dir / "adapter"
    set_special_tokens(trainer.model, tokenizer)
    if trainer.is_fsdp_enabled:
        # Sharded checkpoints resume faster, but a model to use is whole.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(adapter if run.recipe.run.merge_adapter else model))
    if run.main:
        if run.recipe.run.merge_adapter:
            save_merged_model(base, adapter, model, run.recipe, tokenizer)
        tokenizer.save_pretrained(model)
        if not any(model.glob("*.safetensors")):
            raise RuntimeError(f"the trainer wrote no weights to {model}; the last checkpoint has them")
        write_text(model / "README.md", model_card(run, base))
        run_report.append_table(model / "README.md", run.dir)
    trainer.accelerator.wait_for_everyone()
    run.set_status("finished", step=trainer.state.global_step)
    if run.main and run.recipe.run.report:
        run_report.write_report(run.dir)
    if run.recipe.run.toy:
        run.say(
            "this was the recipe at toy size, on a random model, with the miniature's problems in place of data and "
            "evaluation sets that are no local files: it shows that it runs, and its figures mean nothing"
        )
    trainer.end()


def finish_dataset(run: Run, summary: dict[str, Any]) -> None:
    """Keep the figures of a data task, write its card and report, declare it finished, and push it if asked to.

    Args:
        run: the run; its `data` folder is whole.
        summary: for summary.json.
    """
    write_json(run.dir / "summary.json", summary | {"seconds": round(run.seconds(), 1)})
    card.write_card(run.dir)
    args = run.recipe.args
    if args.hub_dataset_id is not None:
        run.say(hub.push_dataset(run.dir / "data", args.hub_dataset_id, args.hub_private))
    finish_files(run, summary)


def finish_files(run: Run, summary: dict[str, Any]) -> None:
    """Keep the figures of a run that has written its files, write its report, and declare it finished.

    Args:
        run: the run.
        summary: for summary.json.
    """
    write_json(run.dir / "summary.json", summary | {"seconds": round(run.seconds(), 1)})
    try:
        # The report says how the run ended.
        run.set_status("finished")
        if run.recipe.run.report:
            with explain_full_disk(run.dir / "report.html"):
                run_report.write_report(run.dir)
    except BaseException:
        run.set_status("interrupted")
        raise
    if run.recipe.run.toy:
        run.say(
            "this was the recipe at toy size, with the miniature's problems in place of data and evaluation sets that "
            "are no local files: it shows that it runs, and its figures and rows mean nothing"
        )


def model_card(run: Run, base: str) -> str:
    """What the model is, in the form the hub reads."""
    recipe = run.recipe
    named = recipe.model.model_name_or_path
    header = {"library_name": "transformers", "tags": ["open-r1", recipe.task]} | (
        {"base_model": named} if named else {}
    )
    lines = [
        "---", yaml.safe_dump(header, sort_keys=False).strip(), "---", "",
        f"# {'/'.join(run.dir.parts[-3:])}", "",
        f"{recipe.task.upper()} of {named or 'a random model'} by {recipe.path.name}, seed {recipe.seed}, "
        f"commit {find_commit() or 'unknown'}. The recipe is in `recipe.yaml` of the run directory.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def prepare_directory(run: Run) -> None:
    """Make the run directory this process's own, or say why it cannot be."""
    directory = run.dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock_directory(directory, run.recipe.part)
    except OSError as error:
        raise RecipeError(f"output_dir: {directory} cannot be written: {error.strerror}; choose another") from error
    require_space(directory, LEAST_BYTES)
    # In this order: another part of a job array may write its recipe, its first file, in between.
    used = any(not path.name.startswith(".") for path in directory.iterdir())
    known = (directory / "recipe.yaml").is_file()
    if used and not known:
        raise RecipeError(f"output_dir: {directory} holds files that are not a run's (no recipe.yaml); choose another")
    if known and run.recipe.run.overwrite and (is_finished(directory) or describe_changes(run.recipe)):
        # Not one that this command itself began: a repeated command goes on.
        others = find_changes(run.recipe).keys()
        # Other filters need no other verdicts.
        kept = JUDGED if run.recipe.task == "select" and others and others <= CHOICE_KEYS else ()
        for path in directory.iterdir():
            if not path.name.startswith(LOCK) and path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif known:
        refuse_another_recipe(run.recipe)
        if is_finished(directory) and not run.recipe.given.get("rejudge"):
            raise RecipeError(
                f"output_dir: {directory} holds a finished run; add --overwrite to replace it, or choose another "
                "--output_dir"
            )
    if run.recipe.part is None:
        # This process is alone here, so these are what killed ones left.
        for folder in (directory, directory / "data", directory / "judged"):
            shards.remove_partial_files(folder)
    if not (known and run.recipe.given.get("rejudge")):
        save_recipe(run)


def save_recipe(run: Run) -> None:
    """Write the recipe that the directory is of; one that judges again does so once its problems are accepted."""
    kept = {key: value for key, value in run.recipe.given.items() if key not in ("overwrite", "rejudge")}
    write_text(run.dir / "recipe.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
    lineage.write_lineage(run.recipe)
