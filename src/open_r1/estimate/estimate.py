"""`open-r1 estimate`: does a recipe fit its hardware, how long does it take, and what would fit or be quicker?

From the model's configuration alone, without weights, on any machine. Memory is counted and traced (memory.py,
traced.py), time follows from rates that are assumed (speed.py), and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig

from ..config.recipe import Recipe
from ..config.schema import DATA_TASKS
from ..errors import RecipeError
from ..system import hardware
from ..system.hardware import GPU
from . import memory, speed, workload
from .memory import GIB, Memory
from .speed import UTILISATION, Speed
from .workload import Workload

if TYPE_CHECKING:
    from ..rewards.registry import Findings


TIGHT = 0.92  # of a GPU's memory: more than the estimate is sure of
OPTIONS = ("rows", "mean_tokens", "utilisation", "price")  # of an estimate, beside the recipe's keys


@dataclass(frozen=True)
class Options:
    """What an estimate is asked for.

    Args:
        rows: of the data.
        mean_tokens: of a completion, or of a row that is not packed.
        utilisation: share of the GPUs' rate that training reaches.
        price: of a GPU for an hour.
    """

    rows: int | None = None
    mean_tokens: float | None = None
    utilisation: float = UTILISATION
    price: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What a recipe takes.

    Args:
        work: the recipe as its hardware sees it.
        gpu: the kind of its GPUs; None is a CPU.
        memory: of each.
        speed: None on a CPU, whose speed nobody states.
        price: of a GPU for an hour.
    """

    work: Workload
    gpu: GPU | None
    memory: Memory
    speed: Speed | None
    price: float | None = None

    @property
    def room(self) -> float | None:
        """Bytes of a GPU."""
        return None if self.gpu is None else self.gpu.memory * GIB

    @property
    def fits(self) -> bool:
        """Always true of a CPU, whose memory is not asked for."""
        return self.room is None or (self.memory.peak <= self.room and self.memory.cache_tokens >= 1)

    @property
    def gpu_hours(self) -> float | None:
        if self.speed is None or self.speed.hours is None:
            return None
        return self.speed.hours * (self.work.processes + self.work.server_gpus)

    @property
    def cost(self) -> float:
        """GPU-hours of the whole training, or of a token if its length is not known; bytes on a CPU."""
        if self.speed is None:
            return self.memory.peak
        if self.gpu_hours is not None:
            return self.gpu_hours
        return self.speed.step_seconds * self.work.processes / self.speed.tokens


def format_headline(estimate: Estimate) -> str:
    """Does it fit, in one line."""
    work = estimate.work
    peak = estimate.memory.peak / GIB
    if estimate.gpu is None:
        return f"{peak:.2f} GiB on a CPU, beside Python and its libraries (about 0.7 GiB)"
    several = f"{work.gpus} x {estimate.gpu.name}" + (
        f", {work.sharding.name}" if work.sharding.kind != "none" else ""
    )
    verdict = "fits" if estimate.fits else "DOES NOT FIT"
    if estimate.fits and peak > TIGHT * estimate.gpu.memory:
        verdict = "fits, but barely"
    return f"{verdict}: {peak:.1f} of {estimate.gpu.memory:.1f} GiB on each GPU ({several})"


def parse_options(changes: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
    """An estimate's own options, and what is left for the recipe; `gpus` may be `8xH100`.

    Raises:
        RecipeError: a value that makes no sense.
    """
    given = {key: changes.pop(key) for key in OPTIONS if key in changes}
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise RecipeError(f"{key}: a number above 0, got {value!r}")
    if given.get("utilisation", 0) > 1:
        raise RecipeError(f"utilisation: a share, at most 1, got {given['utilisation']!r}")
    if "gpus" in changes:
        count, kind = hardware.parse_gpus(str(changes.pop("gpus")))
        changes |= {key: value for key, value in (("gpus", count), ("gpu_type", kind)) if value is not None}
    return Options(**given), changes


def estimate_recipe(recipe: Recipe, asked: Options | None = None, config: PretrainedConfig | None = None) -> Estimate:
    """The estimate of a recipe.

    Args:
        recipe: loaded with `planned`.
        asked: options.
        config: of its model, if that is another stage's.

    Raises:
        RecipeError: a model whose shape is not known or cannot be traced.
    """
    asked = asked or Options()
    work = workload.build_workload(recipe, config)
    gpu = hardware.find_gpu(recipe.run.gpu_type) if work.on_gpu else None
    used, taken = memory.estimate_memory(work, gpu), None
    if gpu is not None:
        rows = None if asked.rows is None else int(asked.rows)
        taken = speed.estimate_time(work, gpu, asked.utilisation, rows, asked.mean_tokens)
    return Estimate(work, gpu, used, taken, asked.price)


def needs_model(recipe: Recipe) -> bool:
    """False of data recipes that only read and write, and of what is generated elsewhere."""
    if recipe.task in DATA_TASKS and recipe.task != "sample":
        return False
    if recipe.task in ("sample", "evaluate"):
        if recipe.args.engine.name == "server":
            return False
        named = recipe.model.model_name_or_path or recipe.run.random_init or recipe.run.base_recipe
        return bool(named) and not recipe.given.get("completions")
    return True


def note_memory(recipe: Recipe, findings: Findings) -> None:
    """Note in the findings of `open-r1 check` whether a recipe fits, and whether its model is as long as its context.

    It refuses nothing, because an estimate may be wrong.
    """
    from .. import models

    if not needs_model(recipe):
        return
    try:
        taken = estimate_recipe(recipe)
    except RecipeError as error:
        findings.warnings.append(f"its memory cannot be estimated: {error}")
        return
    told = format_headline(taken)
    if taken.fits:
        findings.said.append(f"memory, estimated: {told}")
    else:
        findings.warnings.append(
            f"memory, estimated: {told}; `make estimate RECIPE={recipe.path}` says what would fit"
        )
    try:
        models.check_shape(recipe, taken.work.config)
    except RecipeError as error:
        findings.warnings.append(str(error))
    if taken.work.trains and taken.work.rounds_updates:
        findings.warnings.append(
            "dtype: bfloat16 weights are updated in bfloat16, where a change of less than about 1/256 of a weight is "
            "lost, as most are at a small learning rate; set `dtype: float32` (it still computes in bfloat16), or an "
            "accelerate_config that keeps a float32 copy (zero2, zero3, fsdp2)"
        )
