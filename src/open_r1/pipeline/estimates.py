"""`open-r1 estimate PIPELINE`: an estimate of each stage, with the model that its upstream stage makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from ..estimate import estimate, workload
from ..estimate.estimate import Estimate, Options
from ..estimate.memory import GIB
from ..estimate.text import format_hours
from . import graph


@dataclass(frozen=True)
class StageEstimate:
    """A stage and its estimate; None for a stage that runs no model."""

    name: str
    step: str | None
    seeds: int
    estimate: Estimate | None


def estimate_stages(path: Path, changes: dict[str, Any], asked: Options) -> list[StageEstimate]:
    """Estimate the stages of a pipeline, in order.

    Args:
        path: of the pipeline's file.
        changes: overrides of its stages; `gpu_type` applies to all.
        asked: options of the estimate.

    Raises:
        RecipeError: a stage's recipe cannot be loaded or estimated.
    """
    kind = {key: changes.pop(key) for key in ("gpu_type",) if key in changes}
    read = graph.read_pipeline(path, changes)
    configs: dict[str, PretrainedConfig] = {}
    found = []
    for stage in graph.sort_stages(read.stages):
        own = dict(stage.overrides) | (kind if stage.task not in ("select", "mix") else {})
        source = next(iter(stage.inputs["model"]), None)
        if source is not None:
            # The model is not there yet; the stage that makes it has its configuration.
            own |= {"base_recipe": None, "model_name_or_path": f"runs/{source}/model"}
        recipe = workload.load_planned_recipe(stage.recipe, own)
        taken = None
        if estimate.needs_model(recipe):
            config = configs[source] if source is not None else workload.load_model_config(recipe)
            configs[stage.name] = config
            taken = estimate.estimate_recipe(recipe, asked, config)
        found.append(StageEstimate(stage.name, stage.step, len(read.seeds), taken))
    return found


def format_estimates(stages: list[StageEstimate]) -> str:
    """A line for each stage that runs a model, and the sum of GPU-hours."""
    lines = [f"{'stage':<36}{'hardware':<28}{'GiB':>7}  {'fits':<6}{'time':>12}{'GPU-hours':>12}"]
    total, unknown, price = 0.0, [], None
    for stage in stages:
        taken = stage.estimate
        if taken is None:
            continue
        kind = f"{taken.work.gpus} x {taken.gpu.name} {taken.work.sharding.name}" if taken.gpu else "CPU"
        peak = f"{taken.memory.peak / GIB:.1f}"
        lasts = "" if taken.speed is None or taken.speed.hours is None else format_hours(taken.speed.hours)
        spent = "" if taken.gpu_hours is None else f"{taken.gpu_hours:,.0f}"
        fits = "yes" if taken.fits else "NO"
        lines.append(f"{stage.name:<36}{kind.removesuffix(' none'):<28}{peak:>7}  {fits:<6}{lasts:>12}{spent:>12}")
        price = taken.price
        if taken.gpu is not None and taken.gpu_hours is None:
            unknown.append(stage.name)
        total += stage.seeds * (taken.gpu_hours or 0.0)
    if total:
        cost = "" if price is None else f", {price * total:,.0f} at {price:g} an hour"
        lines.append(f"together {total:,.0f} GPU-hours{cost}" + (f", without {', '.join(unknown)}" if unknown else ""))
    return "\n".join([*lines, "times follow from assumed rates; `open-r1 estimate RECIPE` lists them"])
