"""The run directory: what every task does before and after its trainer.

`runs/<model>/<task>/<variant>/` holds recipe.yaml, environment.json, status.json, metrics.jsonl, completions/,
evaluations/, checkpoint-N/, model/, data/, plots/ and report.html. Other stages, reports and resumption read that and
nothing else. Files are written beside their name and renamed, so a kill leaves the old or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import netrc
import os
import platform
import shutil
import signal
import socket
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, Trainer

from . import dataset_card, group, hub, lineage, nodes, quiet, report, shards
from .begun import changed, changes, refuse_another_recipe
from .configs import (
    CHOICE_KEYS,
    SHARDED_TASKS,
    Recipe,
    load_recipe,
    world_size,
)
from .directory import (
    LOCK,
    commit,
    flock,
    is_finished,
    let_go,
    lock,
    read_json,
    read_jsonl,
    status,
    telling_if_full,
    write_json,
    write_text,
)
from .errors import RecipeError
from .guard import Stopped, guarded
from .models import save_merged, settle_tokens
from .network import RUN, START
from .processes import die_with_parent, keep_freed_memory
from .shards import Shards

MANIFEST = "manifest.json"
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "datasets",
    "bitsandbytes",
    "vllm",
    "math-verify",
    "wandb",
)
LEAST_BYTES = 200 * 2**20  # for logs, report and completions; the model is counted once it is known
JUDGED = ("judged", "sources.json", "contamination.json", "contaminated.jsonl")  # what judging leaves


@dataclass
class Run:
    """One run under way.

    Args:
        recipe: the resolved recipe.
        dir: its directory.
        checkpoint: whole checkpoint to resume from, if any.
        spent: seconds of earlier starts of this run, up to that checkpoint.
    """

    recipe: Recipe
    dir: Path
    checkpoint: Path | None = None
    spent: float = 0.0
    began: float = field(default_factory=lambda: _clock())

    @property
    def main(self) -> bool:
        return PartialState().is_main_process

    def seconds(self) -> float:
        """Wall time of this run so far, earlier starts included."""
        return self.spent + time.time() - self.began

    def story_seconds(self) -> float:
        """The same with the run that made this one's base model, if the recipe names it."""
        base = self.recipe.run.base_recipe and Path(str(self.recipe.model.model_name_or_path)).parent
        return self.seconds() + (status(base).get("seconds", 0.0) if base else 0.0)

    def set_status(self, state: str, **more: Any) -> None:
        if self.main:
            write_json(self.dir / "status.json", {"state": state, "seconds": round(self.seconds(), 1), **more})

    def say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)


_process_began: list[float] = [psutil.Process().create_time()]


def _clock() -> float:
    """When a run began: for the first of a process, when the process did (imports take seconds); else now."""
    return _process_began.pop() if _process_began else time.time()


def begin_in_a_fork() -> None:
    """In a process that was forked to run one recipe: neither the parent's clock nor its locks are its own."""
    _process_began[:] = [psutil.Process().create_time()]
    let_go()


def start(recipe: Recipe) -> Run:
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
    quiet.release(run.dir / "library.log" if run.main else None)
    if recipe.task in SHARDED_TASKS:
        # Their files say by themselves what is done.
        run.spent = status(run.dir).get("seconds", 0.0)
        signal.signal(signal.SIGTERM, stop)
    else:
        resume(run)
        track_offline_if_needed(run)
    if run.main:
        write_json(run.dir / "environment.json", environment())
    run.set_status("running")
    if run.main:
        nodes.note_job(run.dir)
    if run.main and START in os.environ:
        # For those who look after the job.
        write_text(Path(os.environ[START]) / RUN, f"{run.dir.resolve()}\n")
    return run


def resume(run: Run) -> None:
    """Find the last whole checkpoint, and remove what came after it."""
    run.checkpoint = last_whole_checkpoint(run.dir)
    if run.checkpoint is not None:
        manifest = read_json(run.checkpoint / MANIFEST)
        if manifest["processes"] != world_size():
            raise RecipeError(
                f"processes: {run.checkpoint} was written by {manifest['processes']}, and this start has "
                f"{world_size()}; go on with as many, or choose another --output_dir"
            )
        run.spent = manifest["seconds"]
        run.say(f"resuming from {run.checkpoint}")
    if run.main:
        drop_what_will_be_repeated(run)


def stop(number: int, frame: Any) -> None:
    """A signal ends a data task between two instructions: a file that is not whole has no name yet."""
    signal.signal(number, signal.SIG_IGN)  # said twice, it would end what puts things in order
    raise Stopped(number, "stopped; the same command goes on from the last whole file")


def from_command_line(main: Callable[[Recipe], Run]) -> None:
    """`python -m open_r1.grpo --config recipe.yaml [--key value ...]`: the form that accelerate launches."""
    words = sys.argv[1:]
    if "--config" not in words[:1] or len(words) < 2:
        sys.exit(f"usage: {sys.argv[0]} --config recipes/<model>/<task>/<variant>.yaml [--key value ...]")
    if "WORLD_SIZE" in os.environ:
        die_with_parent()
    if group.WORLD in os.environ:
        group.restore_signals()
    guarded(lambda: main(load_recipe(words[1], words[2:])))


def finish(run: Run, trainer: Trainer, tokenizer: PreTrainedTokenizerBase, base: str) -> None:
    """Save the model (merged if the recipe asks for it), declare the run finished, and write its report.

    Args:
        run: the run.
        trainer: after training.
        tokenizer: saved beside the weights.
        base: what an adapter was trained on.
    """
    model = run.dir / "model"
    adapter = run.dir / "adapter"
    settle_tokens(trainer.model, tokenizer)
    if trainer.is_fsdp_enabled:
        # Sharded checkpoints resume faster, but a model to use is whole.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(adapter if run.recipe.run.merge_adapter else model))
    if run.main:
        if run.recipe.run.merge_adapter:
            save_merged(base, adapter, model, run.recipe, tokenizer)
        tokenizer.save_pretrained(model)
        if not any(model.glob("*.safetensors")):
            raise RuntimeError(f"the trainer wrote no weights to {model}; the last checkpoint has them")
        write_text(model / "README.md", model_card(run, base))
        report.append_table(model / "README.md", run.dir)
    trainer.accelerator.wait_for_everyone()
    run.set_status("finished", step=trainer.state.global_step)
    if run.main and run.recipe.run.report:
        report.write(run.dir)
    if run.recipe.run.toy:
        run.say(
            "this was the recipe at toy size, on a random model, with the miniature's problems in place of data and "
            "evaluation sets that are no local files: it shows that it runs, and its figures mean nothing"
        )
    trainer.end()


def finish_data(run: Run, summary: dict[str, Any]) -> None:
    """Keep the figures of a data task, write its card and report, declare it finished, and push it if asked to.

    Args:
        run: the run; its `data` folder is whole.
        summary: for summary.json.
    """
    write_json(run.dir / "summary.json", summary | {"seconds": round(run.seconds(), 1)})
    dataset_card.write(run.dir)
    args = run.recipe.args
    if args.hub_dataset_id is not None:
        run.say(hub.push(run.dir / "data", args.hub_dataset_id, args.hub_private))
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
            with telling_if_full(run.dir / "report.html"):
                report.write(run.dir)
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
        f"commit {commit() or 'unknown'}. The recipe is in `recipe.yaml` of the run directory.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def check_processes() -> None:
    """Refuse a launch whose processes would each train alone and all report success."""
    # A trainer's arguments have made the group already; without a GPU a data task has to ask for one on CPU.
    asked = int(os.environ.get(group.WORLD) or world_size())
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # each of which starts processes of the group
    if world_size() != asked or world_size() < tasks:
        raise RecipeError(
            f"launch: {max(asked, tasks)} processes were asked for, and this one is of a group of {world_size()}, so "
            "each would train alone and report success; use slurm/train.slurm, or one `accelerate launch` a node "
            "with --num_machines and --machine_rank"
        )
    state = PartialState(cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available())
    if state.num_processes != world_size():
        raise RecipeError(
            f"launch: {world_size()} processes were started, but they do not form one group "
            f"({state.distributed_type.value}, {state.num_processes} process). On a machine without GPUs use "
            "--config_file recipes/accelerate_configs/cpu.yaml, which sets use_cpu"
        )
    # accelerate's simple launcher sets an address for the processes it was asked for, and then starts only one.
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise RecipeError(
            "launch: accelerate was asked for several processes and started one (it does that with --cpu and with "
            "distributed_type MULTI_CPU); use --config_file recipes/accelerate_configs/cpu.yaml"
        )


def set_threads(recipe: Recipe) -> None:
    """Divide the cores among the processes of this machine; more threads than cores cost more than they bring."""
    if recipe.run.threads is None and "OMP_NUM_THREADS" in os.environ:
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(recipe.run.threads or max(1, cores // local))


def prepare_directory(run: Run) -> None:
    """Make the run directory this process's own, or say why it cannot be."""
    directory = run.dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock(directory, run.recipe.part)
    except OSError as error:
        raise RecipeError(f"output_dir: {directory} cannot be written: {error.strerror}; choose another") from error
    require_space(directory, LEAST_BYTES)
    # In this order: another part of a job array may write its recipe, its first file, in between.
    used = any(not path.name.startswith(".") for path in directory.iterdir())
    known = (directory / "recipe.yaml").is_file()
    if used and not known:
        raise RecipeError(f"output_dir: {directory} holds files that are not a run's (no recipe.yaml); choose another")
    if known and run.recipe.run.overwrite and (is_finished(directory) or changes(run.recipe)):
        # Not one that this command itself began: a repeated command goes on.
        others = changed(run.recipe).keys()
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
            shards.remove_partial(folder)
    if not (known and run.recipe.given.get("rejudge")):
        keep_recipe(run)


def keep_recipe(run: Run) -> None:
    """Write the recipe that the directory is of; one that judges again does so once its problems are accepted."""
    kept = {key: value for key, value in run.recipe.given.items() if key not in ("overwrite", "rejudge")}
    write_text(run.dir / "recipe.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
    lineage.write(run.recipe)


def same_rows(run: Run, found: dict[str, Any]) -> None:
    """Keep what the rows of a run are, and go on with no others.

    Args:
        run: one that writes files of rows.
        found: of `StoredRows.identity`, or the like of it.

    Raises:
        RecipeError: they have changed since this run began; its files would lack some of them, or hold some twice.
    """
    path = run.dir / "sources.json"
    if not path.is_file():
        write_json(path, found)
        return
    before = read_json(path)
    if before != found:
        changed = [new["path"] for old, new in zip(before["sources"], found["sources"], strict=True) if old != new]
        what = f"datasets: {', '.join(changed)}" if changed else "deduplicate or contamination: the rows that are kept"
        raise RecipeError(
            f"{what} changed since {run.dir} was begun; delete it to start anew, or choose another --output_dir"
        )


def own_files(run: Run, files: Shards) -> list[int]:
    """Numbers of the missing files that are this process's: of a launch's processes, within a part of a job array."""
    return files.missing(*_own_part(run))


def own_numbers(run: Run, files: Shards) -> range:
    """Numbers of this process's files, there or not."""
    return files.of_part(*_own_part(run))


def _own_part(run: Run) -> tuple[int, int]:
    """Which part of the files is this process's, and of how many."""
    args, state = run.recipe.args, PartialState()
    return args.part * state.num_processes + state.process_index, args.parts * state.num_processes


@contextlib.contextmanager
def to_finish(run: Run, files: Shards) -> Iterator[bool]:
    """True to the one process that is to finish a run whose files are all there; the others leave it."""
    if run.main:
        wait_for_launch(run, files)
    if not files.complete:
        args, left = run.recipe.args, sum(not files.path(number).is_file() for number in range(files.count))
        run.set_status("waiting")
        run.say(f"part {args.part} of {args.parts} is done; {left} of {files.count} files are left to the others")
        yield False
    elif not run.main:
        yield False
    else:
        with (run.dir / f"{LOCK}-finish").open("w") as lock_of_all:
            flock(lock_of_all.fileno(), fcntl.LOCK_EX)
            yield not is_finished(run.dir)


def wait_for_launch(run: Run, files: Shards) -> None:
    """Until the files of all processes of this launch are there; one that fails ends the others by its launcher.

    A barrier would give up after ten minutes (NCCL), and a process may have more than that left to do.
    """
    args, processes = run.recipe.args, PartialState().num_processes
    own = [n for n in range(files.count) if n % (args.parts * processes) // processes == args.part]
    while not all(files.path(number).is_file() for number in own):
        time.sleep(1)


def require_space(directory: Path, needed: int) -> None:
    """Refuse to start what cannot be saved.

    Raises:
        RecipeError: fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise RecipeError(
            f"output_dir: {free / 2**20:,.0f} MiB are free at {directory}, and this run's checkpoints need about "
            f"{needed / 2**20:,.0f}; free some space, lower save_total_limit, or choose another directory"
        )


def last_whole_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint whose manifest is there and whose files have the sizes it names."""
    checkpoints = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return next((path for path in reversed(checkpoints) if is_whole(path)), None)


def is_whole(checkpoint: Path) -> bool:
    if not (checkpoint / MANIFEST).is_file():
        return False
    files = read_json(checkpoint / MANIFEST)["files"]
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size for name, size in files.items()
    )


def seal(checkpoint: Path, seconds: float) -> None:
    """Declare a checkpoint whole: the last thing written to it."""
    files = {str(f.relative_to(checkpoint)): f.stat().st_size for f in checkpoint.rglob("*") if f.is_file()}
    files.pop(MANIFEST, None)
    manifest = {"seconds": round(seconds, 1), "processes": world_size(), "files": files}
    write_json(checkpoint / MANIFEST, manifest)


def drop_what_will_be_repeated(run: Run) -> None:
    """Remove half-written checkpoints, and the metrics of steps after the one that is resumed from."""
    step = int(run.checkpoint.name.split("-")[1]) if run.checkpoint else -1
    for path in run.dir.glob("checkpoint-*"):
        if not is_whole(path):
            run.say(f"{path} was not completely written; it is removed")
            shutil.rmtree(path)
    if run.checkpoint is None:
        shutil.rmtree(run.dir / "evaluations", ignore_errors=True)
    for name in ("metrics.jsonl", "withheld.jsonl", "second_opinions.jsonl"):
        log = run.dir / name
        if log.is_file():
            # The trainer sums up when it stops; this was not the end.
            kept = [row for row in read_jsonl(log) if row["step"] <= step and "train_runtime" not in row]
            write_text(log, "".join(json.dumps(row) + "\n" for row in kept))


def track_offline_if_needed(run: Run) -> None:
    """wandb without a login or a network goes offline; it never asks."""
    if "wandb" not in run.recipe.args.report_to:
        return
    import wandb

    os.environ.setdefault("WANDB_PROJECT", "open-r1")
    os.environ.setdefault("WANDB_DIR", str(run.dir))
    os.environ.setdefault("WANDB_SILENT", "true")
    # One wandb run per run directory, however often it is resumed.
    known = run.dir / "wandb_id"
    if run.main and not known.is_file():
        write_text(known, uuid.uuid4().hex[:8])
    PartialState().wait_for_everyone()
    os.environ.setdefault("WANDB_RUN_ID", known.read_text())
    os.environ.setdefault("WANDB_RESUME", "allow")
    if os.environ.get("WANDB_MODE"):
        return
    # Not `wandb.setup()`, which would read the environment for good before the mode is set in it.
    host = str(urllib.parse.urlparse(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname)
    reason = None
    if not os.environ.get("WANDB_API_KEY") and not in_netrc(host):
        reason = "there is no login"
    else:
        try:
            socket.create_connection((host, 443), timeout=3).close()
        except OSError:
            reason = f"{host} cannot be reached"
    if reason:
        os.environ["WANDB_MODE"] = "offline"
        run.say(
            f"wandb: {reason}, so this run is logged offline; "
            f"upload it later with: wandb sync {run.dir}/wandb/offline-run-*"
        )


def in_netrc(host: str) -> bool:
    """`wandb login` keeps its key there."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def versions(*packages: str) -> dict[str, str]:
    """Of those packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def environment() -> dict[str, Any]:
    """Commit, versions and hardware, for the record."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": versions(*PACKAGES),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "gpus": gpus,
        "command": " ".join(["open-r1" if Path(sys.argv[0]).name == "open-r1" else sys.argv[0], *sys.argv[1:]]),
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
