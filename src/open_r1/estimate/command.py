"""What `open-r1 estimate` prints: the estimate of a recipe with its alternatives, or a table of several."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config.overrides import parse_overrides
from ..config.recipe import read_yaml
from ..errors import RecipeError
from . import alternatives
from .alternatives import Alternative
from .estimate import Estimate, Options, estimate_recipe, needs_model, parse_options
from .workload import load_planned_recipe


def find_others(
    path: str | Path, changes: dict[str, Any], estimate: Estimate, asked: Options
) -> list[tuple[Alternative, Estimate]]:
    """Alternatives: those that fit first, of them those that compute the same, then by their cost."""
    found = []
    for alternative in alternatives.find_alternatives(estimate.work):
        try:
            recipe = load_planned_recipe(path, changes | alternative.changes)
            found.append((alternative, estimate_recipe(recipe, asked, estimate.work.config)))
        except RecipeError:
            continue  # a combination that is refused is no alternative

    def cost(pair: tuple[Alternative, Estimate]) -> tuple[bool, bool, float]:
        return not pair[1].fits, not pair[0].same, pair[1].cost

    return sorted(found, key=cost)


def report_estimates(words: list[str]) -> Iterator[str]:
    """What `open-r1 estimate RECIPE [RECIPE ...] [--key value ...]` prints, as it is known."""
    from . import text

    paths = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    asked, changes = parse_options(parse_overrides(words[len(paths) :]))
    if len(paths) > 1:
        yield from text.format_table(_several(paths, changes, asked))
        return
    path = paths[0]
    recipe = load_planned_recipe(path, changes)
    if not needs_model(recipe):
        yield f"{path} runs no model here: it needs no GPU, and a few GB of memory"
        return
    estimate = estimate_recipe(recipe, asked)
    yield text.format_estimate(estimate)
    if estimate.work.trains and estimate.gpu:
        yield text.format_alternatives(estimate, find_others(path, changes, estimate, asked))


def _several(paths: list[str], changes: dict[str, Any], asked: Options) -> Iterator[tuple[str, Estimate]]:
    """The estimates of those that run a model."""
    for path in paths:
        if "stages" in read_yaml(Path(path)):
            raise RecipeError(f"{path} is a pipeline, which is estimated by itself: open-r1 estimate {path}")
        recipe = load_planned_recipe(path, changes)
        if needs_model(recipe):
            yield path, estimate_recipe(recipe, asked)
