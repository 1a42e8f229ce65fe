"""The start and the end of every run.

The run directory `runs/<model>/<task>/<variant>/` holds recipe.yaml, environment.json, status.json, metrics.jsonl,
completions/, evaluations/, checkpoint-N/, model/, data/, plots/ and report.html. Later stages, reports and resumption
read nothing else. Each file is written under a temporary name and renamed: a kill leaves the old file or the new one.
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
from ..config.schema import DATA_TASKS, SHARDED_TASKS
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
from .recipe_changes import check_same_recipe, describe_changes, find_changes
from .run import Run

VERDICTS = ("judged", "sources.json", "contamination.json", "contaminated.jsonl")  # written by a selection's judging
TOY_NOTE = (
    "this was the recipe at toy size: a random model, and the miniature's problems in place of all data that are no "
    "local files. It shows that the recipe runs; its figures and rows mean nothing"
)


def start_run(recipe: Recipe) -> Run:
    """Check the launch, lock and prepare the run directory, and find the checkpoint to resume from.

    Raises:
        RecipeError: the processes form no group; `hub_dataset_id` is no name; the disk is full or not writable; the
            directory holds a finished run or a run of another recipe.
    """
    check_processes()
    note = hub.check_push(recipe.args.hub_dataset_id) if recipe.task in DATA_TASKS else None
    set_threads(recipe)
    if not torch.cuda.is_available():
        keep_freed_memory()
    run = Run(recipe, recipe.run_dir)
    if run.main:
        prepare_directory(run)
    PartialState().wait_for_everyone()
    library_log.release_messages(run.dir / "library.log" if run.main else None)
    if recipe.task in SHARDED_TASKS:
        # They have no checkpoints: the files of rows that are there are done.
        run.spent = read_status(run.dir).get("seconds", 0.0)
        signal.signal(signal.SIGTERM, stop_on_signal)
    else:
        prepare_resume(run)
        configure_wandb(run)
    if note:
        run.say(note)
    run.set_status("running")
    if run.main:
        write_json(run.dir / "environment.json", describe_environment())
        network.write_job_note(run.dir)
        if START in os.environ:
            # `open-r1 status` finds the run directory of a Slurm job by this file.
            write_text(Path(os.environ[START]) / RUN, f"{run.dir.resolve()}\n")
    return run


def run_from_command_line(main: Callable[[Recipe], Run]) -> None:
    """Run a task file as a script: `python -m open_r1.grpo --config recipe.yaml [--key value ...]`."""
    words = sys.argv[1:]
    if "--config" not in words[:1] or len(words) < 2:
        sys.exit(f"usage: {sys.argv[0]} --config recipes/<model>/<task>/<variant>.yaml [--key value ...]")
    if "WORLD_SIZE" in os.environ:
        die_with_parent()
    if processes.WORLD in os.environ:
        processes.restore_signals()
    run_guarded(lambda: main(load_recipe(words[1], words[2:])))


def finish_training(run: Run, trainer: Trainer, tokenizer: PreTrainedTokenizerBase, base: str) -> None:
    """Save the model (merged, with `merge_adapter`), set the status to finished, and write the report.

    Args:
        run: the run.
        trainer: after training.
        tokenizer: saved beside the weights.
        base: path of the weights that an adapter was trained on.
    """
    model = run.dir / "model"
    adapter = run.dir / "adapter"
    set_special_tokens(trainer.model, tokenizer)
    if trainer.is_fsdp_enabled:
        # Checkpoints are sharded, which resumes faster; the final model is not.
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
        run.say(TOY_NOTE)
    trainer.end()


def finish_dataset(run: Run, summary: dict[str, Any]) -> None:
    """Finish a run that has written a dataset to `data`: `finish_files` after its card, and a push to the hub.

    Args:
        run: the run.
        summary: contents of summary.json.
    """
    args = run.recipe.args
    write_json(run.dir / "summary.json", summary)
    card.write_card(run.dir)
    if args.hub_dataset_id is not None:
        run.say(hub.push_dataset(run.dir / "data", args.hub_dataset_id, args.hub_private))
    finish_files(run, summary)


def finish_files(run: Run, summary: dict[str, Any]) -> None:
    """Finish a run that has written its files: summary.json, status and report.

    Args:
        run: the run.
        summary: contents of summary.json, to which the seconds are added.
    """
    write_json(run.dir / "summary.json", summary | {"seconds": round(run.seconds(), 1)})
    try:
        # Before the report, which shows the status.
        run.set_status("finished")
        if run.recipe.run.report:
            with explain_full_disk(run.dir / "report.html"):
                run_report.write_report(run.dir)
    except BaseException:
        run.set_status("interrupted")
        raise
    if run.recipe.run.toy:
        run.say(TOY_NOTE)


def model_card(run: Run, base: str) -> str:
    """The model card, with the header that the hub reads."""
    recipe = run.recipe
    base_model = recipe.model.model_name_or_path
    header: dict[str, Any] = {"library_name": "transformers", "tags": ["open-r1", recipe.task]}
    if base_model:
        header["base_model"] = base_model
    lines = [
        "---", yaml.safe_dump(header, sort_keys=False).strip(), "---", "",
        f"# {'/'.join(run.dir.parts[-3:])}", "",
        f"{recipe.task.upper()} of {base_model or 'a random model'} by {recipe.path.name}, seed {recipe.seed}, "
        f"commit {find_commit() or 'unknown'}. The recipe is in `recipe.yaml` of the run directory.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def prepare_directory(run: Run) -> None:
    """Lock the run directory, empty it if the recipe says `overwrite`, and write recipe.yaml.

    Raises:
        RecipeError: another process has it, or it holds a finished run, another recipe's run, or other files.
    """
    directory = run.dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock_directory(directory, run.recipe.part)
    except OSError as error:
        raise RecipeError(f"output_dir: {directory} cannot be written: {error.strerror}; choose another") from error
    require_space(directory, LEAST_BYTES)
    # `used` before `known`: another part of a job array may write recipe.yaml, its first file, in between.
    used = any(not path.name.startswith(".") for path in directory.iterdir())
    known = (directory / "recipe.yaml").is_file()
    if used and not known:
        raise RecipeError(f"output_dir: {directory} holds other files and no recipe.yaml; choose another directory")
    if known and run.recipe.run.overwrite and (is_finished(directory) or describe_changes(run.recipe)):
        # An unfinished run of the same recipe goes on: the command was repeated with its `--overwrite`.
        changed = find_changes(run.recipe).keys()
        # Verdicts do not depend on the filters.
        kept = VERDICTS if run.recipe.task == "select" and changed and changed <= CHOICE_KEYS else ()
        for path in directory.iterdir():
            if not path.name.startswith(LOCK) and path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif known:
        check_same_recipe(run.recipe)
        if is_finished(directory) and not run.recipe.given.get("rejudge"):
            raise RecipeError(
                f"output_dir: {directory} holds a finished run; add --overwrite to replace it, or choose another "
                "--output_dir"
            )
    if run.recipe.part is None:
        # No other process writes here, so partial files come from killed ones.
        for folder in (directory, directory / "data", directory / "judged"):
            shards.remove_partial_files(folder)
    if not (known and run.recipe.given.get("rejudge")):
        save_recipe(run)


def save_recipe(run: Run) -> None:
    """Write recipe.yaml and lineage.json; with `rejudge`, only after the problems have been checked."""
    kept = {key: value for key, value in run.recipe.given.items() if key not in ("overwrite", "rejudge")}
    write_text(run.dir / "recipe.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
    lineage.write_lineage(run.recipe)
