"""A run in progress: its recipe, directory and clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from accelerate import PartialState

from ..config.recipe import Recipe
from ..system.files import read_status, write_json
from ..system.locks import release_after_fork


@dataclass
class Run:
    """A run in progress.

    Args:
        recipe: the resolved recipe.
        dir: the run directory.
        checkpoint: complete checkpoint to resume from, if any.
        spent: seconds of earlier starts of this run, up to that checkpoint.
        began: time of this start.
    """

    recipe: Recipe
    dir: Path
    checkpoint: Path | None = None
    spent: float = 0.0
    began: float = field(default_factory=lambda: _process_start.pop() if _process_start else time.time())

    @property
    def main(self) -> bool:
        return PartialState().is_main_process

    def seconds(self) -> float:
        """Wall time of this run, earlier starts included."""
        return self.spent + time.time() - self.began

    def story_seconds(self) -> float:
        """Wall time of this run and of the run that trained its `base_recipe`, if the recipe has one."""
        base = self.recipe.run.base_recipe and Path(str(self.recipe.model.model_name_or_path)).parent
        return self.seconds() + (read_status(base).get("seconds", 0.0) if base else 0.0)

    def set_status(self, state: str, **more: Any) -> None:
        if self.main:
            write_json(self.dir / "status.json", {"state": state, "seconds": round(self.seconds(), 1), **more})

    def say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)


# The first run of a process began when the process did: imports take seconds.
_process_start: list[float] = [psutil.Process().create_time()]


def reset_after_fork() -> None:
    """Give a forked process that runs one recipe its start time, and release the parent's locks."""
    _process_start[:] = [psutil.Process().create_time()]
    release_after_fork()
