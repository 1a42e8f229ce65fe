"""Callbacks of all trainers, and the call that trains: signals, metrics, progress, tables of completions."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from accelerate.utils import gather_object, is_peft_model
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from ..prompts import read_last_text
from ..rewards.scoring import Reward
from ..run.checkpoints import LEAST_BYTES, require_space
from ..run.exit import Interruption
from ..run.run import Run
from ..system import internals
from ..system.files import read_json
from ..system.network import START
from .exact_resume import ExactResume


class StopSignal(TrainerCallback):
    """On Ctrl-C or SIGTERM, finishes the step, writes a checkpoint and stops; a second signal stops at once."""

    REPEATED = 3.0  # seconds within which a launcher, a terminal and Slurm may pass on one signal several times

    def __init__(self, trainer: Trainer, run: Run):
        self.trainer = trainer
        self.run = run
        self.received: int | None = None
        self.at = 0.0
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None:
            # Slurm repeats the signal at the time limit, and then kills the job.
            if time.monotonic() - self.at > self.REPEATED and START not in os.environ:
                raise KeyboardInterrupt
            return
        self.received, self.at = number, time.monotonic()
        self.run.say("\nstopping after this step, with a checkpoint (once more to stop at once)")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stop = self.received or 0
        if self.trainer.accelerator.num_processes > 1:
            # The signal may have reached one process only, and all must stop after the same step.
            received = torch.tensor([stop], device=self.trainer.accelerator.device)
            stop = int(self.trainer.accelerator.gather(received).max())
        if stop:
            self.received, self.at = stop, self.at or time.monotonic()
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class MetricsFile(TrainerCallback):
    """Writes all logged values to metrics.jsonl, one JSON object for each step.

    Args:
        run: run in whose directory the file is.
        reward_functions: of GRPO or RLOO; they count the reasons of verdicts without evidence.
    """

    def __init__(self, run: Run, reward_functions: list[Any]):
        self.path = run.dir / "metrics.jsonl"
        self.run = run
        # All rewards of a recipe share one ScoredBatch.
        self.scored = next((f.scored for f in reward_functions if isinstance(f, Reward)), None)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        reasons: Counter[str] = Counter()
        if self.scored is not None and logs and ("loss" in logs or "eval_loss" in logs):
            for counted in gather_object([self.scored.drain_reasons()]):
                reasons.update(counted)
        if state.is_world_process_zero and logs:
            row = {"step": state.global_step, "seconds": round(self.run.seconds(), 2), **logs}
            if reasons:
                row["verdict/reasons"] = dict(reasons.most_common())
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


class ProgressBar(TrainerCallback):
    """A progress bar with the step, the time left, and up to two metrics."""

    SHOWN = (
        ("reward", "reward"),
        ("completions/mean_length", "length"),
        ("rewards/accuracies", "accuracy"),
        ("loss", "loss"),
    )

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            # In a log file every redrawn bar is a new line.
            interval = 0.2 if sys.stderr.isatty() else 20.0
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", mininterval=interval, dynamic_ncols=True
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.bar is not None and logs and "loss" in logs:
            shown = {name: logs[key] for key, name in self.SHOWN if isinstance(logs.get(key), int | float)}
            shown = dict(list(shown.items())[:2])
            self.bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()}, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class CompletionTable(TrainerCallback):
    """Prints a few completions with their rewards at step 1 and every `every` steps; never with 0."""

    ROWS = 3

    def __init__(self, trainer: Trainer, every: int):
        self.trainer = trainer
        self.every = every

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        due = state.global_step == 1 or (self.every and state.global_step % self.every == 0)
        if not (self.every and due and state.is_world_process_zero and logs and "loss" in logs):
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        recorded = internals.read_completion_logs(self.trainer)
        # Rewards are rows: as columns, more than two would leave no room for the text.
        table = Table(title=f"step {state.global_step}: sampled completions", title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold", ratio=1)
        # One completion of each prompt, because the completions of a group look alike.
        group = self.trainer.num_generations
        for i in range(0, min(self.ROWS * group, len(recorded["prompt"])), group):
            for kind in ("prompt", "completion"):
                table.add_row(kind, Text(_shorten(read_last_text(recorded[kind][i]))))
            scores = {name: values[i] for name, values in recorded["rewards"].items()}
            cells = [f"{name} {'-' if math.isnan(score) else f'{score:.2f}'}" for name, score in scores.items()]
            table.add_row("rewards", "   ".join(cells), end_section=True)
        with tqdm.external_write_mode():
            Console().print(table)


class CompletionFiles(TrainerCallback):
    """Writes `completions/completions_<step>.parquet` for RLOO's trainer, which does not, as GRPO's trainer does."""

    def __init__(self, trainer: Trainer, run: Run):
        self.trainer = trainer
        self.folder = run.dir / "completions"

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        recorded = internals.read_completion_logs(self.trainer)
        taken = logs and ("loss" in logs or "eval_loss" in logs)
        if not (taken and args.log_completions and state.is_world_process_zero and recorded["prompt"]):
            return
        columns = {
            "step": [state.global_step] * len(recorded["prompt"]),
            "prompt": list(recorded["prompt"]),
            "completion": list(recorded["completion"]),
            **{name: list(values) for kind in ("rewards", "extra") for name, values in recorded[kind].items()},
            "advantage": list(recorded["advantages"]),
        }
        self.folder.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(
            pyarrow.table(columns), self.folder / f"completions_{state.global_step:05d}.parquet"
        )


def _shorten(text: str, length: int = 400) -> str:
    text = "".join(c if c.isprintable() or c == "\n" else "\N{MIDDLE DOT}" for c in text)
    return text if len(text) <= length else f"{text[: length * 2 // 3]} ... {text[-length // 3 :]}"


class WandbRecipe(TrainerCallback):
    """Adds the recipe to wandb, as the run's config and as a file."""

    def __init__(self, run: Run):
        self.run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        import wandb

        wandb.run.config.update({"recipe": self.run.recipe.given}, allow_val_change=True)
        wandb.save(str(self.run.dir / "recipe.yaml"), base_path=str(self.run.dir), policy="now")


def run_trainer(trainer: Trainer, run: Run, *more: TrainerCallback) -> None:
    """Train from the last complete checkpoint to the end.

    Args:
        trainer: the trainer.
        run: the run.
        more: callbacks besides those that all tasks have.

    Raises:
        Interruption: a signal stopped the training, and a checkpoint was written.
        RecipeError: the disk has too little space for the checkpoints.
    """
    require_space(run.dir, estimate_disk_bytes(trainer))
    # TRL would write a card at every checkpoint; `finish_training` writes ours.
    trainer.create_model_card = lambda *args, **kwargs: None
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    stop = StopSignal(trainer, run)
    metrics = MetricsFile(run, internals.list_reward_functions(trainer))
    for callback in (ExactResume(trainer, run), metrics, ProgressBar(), *more, stop):
        trainer.add_callback(callback)
    if "wandb" in run.recipe.args.report_to:
        trainer.add_callback(WandbRecipe(run))
    checkpoint = str(run.checkpoint) if run.checkpoint else None
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    if checkpoint and _is_last(Path(checkpoint)) and not sharded:
        # `train` would take one more step.
        internals.load_weights(trainer, checkpoint)
        trainer.state.global_step = read_json(Path(checkpoint) / "trainer_state.json")["global_step"]
        return
    trainer.train(resume_from_checkpoint=checkpoint)
    if stop.received is not None:
        run.set_status("interrupted", step=trainer.state.global_step)
        # If a process exits before the checkpoint is sealed, the launcher ends the others.
        trainer.accelerator.wait_for_everyone()
        raise Interruption(
            stop.received, f"stopped with a checkpoint in {run.dir}; run the same command again to continue"
        )


def estimate_disk_bytes(trainer: Trainer) -> int:
    """The most disk that a run takes: the model, and weights and two Adam moments (fp32) for each checkpoint."""
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    if is_peft_model(trainer.model):
        weights = 4 * trained
    # The oldest is deleted after the newest is written: one more. If all are kept, there is space for three.
    kept = 0 if trainer.args.save_strategy == "no" else (trainer.args.save_total_limit or 2) + 1
    return LEAST_BYTES + weights + kept * (weights + 8 * trained)


def _is_last(checkpoint: Path) -> bool:
    state = read_json(checkpoint / "trainer_state.json")
    return state["global_step"] >= state["max_steps"]
