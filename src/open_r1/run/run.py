"""One run under way: its recipe, directory and clock."""

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
        return self.seconds() + (read_status(base).get("seconds", 0.0) if base else 0.0)

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


def reset_after_fork() -> None:
    """In a process that was forked to run one recipe: neither the parent's clock nor its locks are its own."""
    _process_began[:] = [psutil.Process().create_time()]
    release_after_fork()
