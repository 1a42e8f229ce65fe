"""Checkpoints from which a resumed run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from ..run.checkpoints import seal_checkpoint
from ..run.run import Run
from ..system import internals


class ExactResume(TrainerCallback):
    """Completes each checkpoint so that a resumed run equals an uninterrupted one, bit for bit.

    The state is one file per process, written after the trainer's own; then the checkpoint is sealed. A frozen
    reference model is not kept (it is the initial model); one that follows the policy (`sync_ref_model`) is.
    """

    def __init__(self, trainer: Trainer, run: Run):
        self.trainer = trainer
        self.run = run
        self.order: dict[str, torch.Tensor] = {}  # what the order of this epoch's rows was drawn from
        self.resumed: dict[str, torch.Tensor] = {}  # the same, of the epoch in which a resumed run begins

    def _file(self, checkpoint: Path) -> Path:
        return checkpoint / f"resume_{self.trainer.accelerator.process_index}.pt"

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        carried = internals.read_step_state(self.trainer)
        if internals.has_moving_reference(self.trainer):
            carried["ref_model"] = self.trainer.accelerator.get_state_dict(self.trainer.ref_model)
        # At its end the next epoch is still to be drawn.
        ended = float(state.epoch).is_integer()
        carried["order"] = random_states(kwargs["train_dataloader"]) if ended else self.order
        torch.save(carried, self._file(checkpoint))
        self.trainer.accelerator.wait_for_everyone()
        if self.run.main:
            seal_checkpoint(checkpoint, self.run.seconds())
            self.run.set_status("running", step=state.global_step)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A name that a release lacks would be a run that cannot be resumed exactly, so it is found before any step.
        internals.check_trainer(self.trainer)
        internals.sampler_generator(kwargs["train_dataloader"])
        if self.run.checkpoint is None:
            return
        # The trainer has loaded its own state by now, and set these to their initial values.
        carried = torch.load(self._file(self.run.checkpoint), map_location="cpu", weights_only=True)
        self.resumed = carried.pop("order")
        carried = send_to_device(carried, args.device)
        reference = carried.pop("ref_model", None)
        if reference is not None:
            self.trainer.accelerator.unwrap_model(self.trainer.ref_model).load_state_dict(reference)
        internals.restore_step_state(self.trainer, carried)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The trainer draws the epoch's order again and skips what was trained on; samplers that do not go by the
        # number of the epoch (GRPO's, and those by length) would draw that of the first.
        if self.resumed:
            set_random_states(kwargs["train_dataloader"], self.resumed)
            self.resumed = {}
        self.order = random_states(kwargs["train_dataloader"])


def random_states(dataloader: DataLoader) -> dict[str, torch.Tensor]:
    """What a sampler may draw its next order of rows from: the process's generator, and its own if it has one."""
    states = {"process": torch.get_rng_state()}
    if own := internals.sampler_generator(dataloader):
        states["sampler"] = own.get_state()
    return states


def set_random_states(dataloader: DataLoader, states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["process"])
    if own := internals.sampler_generator(dataloader):
        own.set_state(states["sampler"])
