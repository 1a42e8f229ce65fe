"""Estimates of the memory and time of a recipe, from the model's configuration alone.

Memory is counted and traced (memory.py, tracing.py); time is computed from assumed rates (speed.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
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


TIGHT = 0.92  # share of a GPU's memory above which the estimate's error decides whether the recipe fits


@dataclass(frozen=True)
class Options:
    """Options of an estimate, beside the recipe's keys.

    Args:
        rows: number of rows of the data.
        mean_tokens: mean length of a completion, or of a row that is not packed.
        utilisation: share of the GPUs' peak rate that training reaches.
        price: price of a GPU-hour.
    """

    rows: int | None = None
    mean_tokens: float | None = None
    utilisation: float = UTILISATION
    price: float | None = None


@dataclass(frozen=True)
class Estimate:
    """The memory and time of a recipe.

    Args:
        work: the recipe's workload.
        gpu: model of its GPUs; None for a CPU.
        memory: memory of each GPU.
        speed: None on a CPU, for which no rate is known.
        price: price of a GPU-hour.
    """

    work: Workload
    gpu: GPU | None
    memory: Memory
    speed: Speed | None
    price: float | None = None

    @property
    def room(self) -> float | None:
        """Memory of a GPU, in bytes."""
        return None if self.gpu is None else self.gpu.memory * GIB

    @property
    def fits(self) -> bool:
        """Always true of a CPU, whose memory is not known."""
        return self.room is None or (self.memory.peak <= self.room and self.memory.cache_tokens >= 1)

    @property
    def gpu_hours(self) -> float | None:
        if self.speed is None or self.speed.hours is None:
            return None
        return self.speed.hours * (self.work.processes + self.work.server_gpus)

    @property
    def cost(self) -> float:
        """GPU-hours of the training, or GPU-seconds a token if the number of steps is unknown; bytes on a CPU."""
        if self.speed is None:
            return self.memory.peak
        if self.gpu_hours is not None:
            return self.gpu_hours
        return self.speed.step_seconds * self.work.processes / self.speed.tokens


def format_headline(estimate: Estimate) -> str:
    """One line that says whether the recipe fits its hardware."""
    work = estimate.work
    peak = estimate.memory.peak / GIB
    if estimate.gpu is None:
        return f"{peak:.2f} GiB on a CPU, beside Python and its libraries (about 0.7 GiB)"
    gpus = f"{work.gpus} x {estimate.gpu.name}"
    gpus += f", {work.sharding.name}" if work.sharding.kind != "none" else ""
    verdict = "fits" if estimate.fits else "DOES NOT FIT"
    if estimate.fits and peak > TIGHT * estimate.gpu.memory:
        verdict = "fits, but barely"
    return f"{verdict}: {peak:.1f} of {estimate.gpu.memory:.1f} GiB on each GPU ({gpus})"


def parse_options(changes: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
    """Split overrides into options of the estimate and keys of the recipe; `gpus` may be `8xH100`.

    Raises:
        RecipeError: a value is out of range.
    """
    given = {field.name: changes.pop(field.name) for field in fields(Options) if field.name in changes}
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise RecipeError(f"{key}: a number above 0, got {value!r}")
    if given.get("utilisation", 0) > 1:
        raise RecipeError(f"utilisation: a share, at most 1, got {given['utilisation']!r}")
    if "gpus" in changes:
        count, kind = hardware.parse_gpus(str(changes.pop("gpus")))
        changes |= {key: value for key, value in (("gpus", count), ("gpu_type", kind)) if value is not None}
    return Options(**given), changes


def estimate_recipe(
    recipe: Recipe, options: Options | None = None, config: PretrainedConfig | None = None
) -> Estimate:
    """Estimate the memory and time of a recipe.

    Args:
        recipe: loaded with `planned`.
        options: options of the estimate.
        config: configuration of its model, if another stage makes the model.

    Raises:
        RecipeError: the model's configuration is not known or cannot be traced.
    """
    options = options or Options()
    work = workload.build_workload(recipe, config)
    gpu = hardware.find_gpu(recipe.run.gpu_type) if work.on_gpu else None
    used, taken = memory.estimate_memory(work, gpu), None
    if gpu is not None:
        rows = None if options.rows is None else int(options.rows)
        taken = speed.estimate_time(work, gpu, options.utilisation, rows, options.mean_tokens)
    return Estimate(work, gpu, used, taken, options.price)


def needs_model(recipe: Recipe) -> bool:
    """False if a recipe only reads and writes data, or a server generates for it."""
    if recipe.task in DATA_TASKS and recipe.task != "sample":
        return False
    if recipe.task in ("sample", "evaluate"):
        if recipe.args.engine.name == "server":
            return False
        named = recipe.model.model_name_or_path or recipe.run.random_init or recipe.run.base_recipe
        return bool(named) and not recipe.given.get("completions")
    return True


def note_memory(recipe: Recipe, findings: Findings) -> None:
    """Add to the findings of `open-r1 check` whether the recipe fits its hardware and its model's context.

    These are warnings only, because an estimate may be wrong.
    """
    from .. import models

    if not needs_model(recipe):
        return
    try:
        taken = estimate_recipe(recipe)
    except RecipeError as error:
        findings.warnings.append(f"its memory cannot be estimated: {error}")
        return
    headline = format_headline(taken)
    if taken.fits:
        findings.said.append(f"memory, estimated: {headline}")
    else:
        findings.warnings.append(
            f"memory, estimated: {headline}; `make estimate RECIPE={recipe.path}` says what would fit"
        )
    try:
        models.check_shape(recipe, taken.work.config)
    except RecipeError as error:
        findings.warnings.append(str(error))
    if taken.work.trains and taken.work.rounds_updates:
        findings.warnings.append(
            "dtype: bfloat16 weights are updated in bfloat16, which loses changes below about 1/256 of a weight: most "
            "changes at a small learning rate. Set `dtype: float32` (it still computes in bfloat16), or an "
            "accelerate_config that keeps a float32 copy (zero2, zero3, fsdp2)"
        )
