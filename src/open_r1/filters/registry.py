"""The table of filters by name, and their parameters."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import RecipeError, suggest_nearest
from ..system.registry import import_place, locate
from ..system.values import convert_value
from .rules import Row


@dataclass
class FilterConfig:
    """One step of a selection; the filter's own parameters stand beside its name.

    Args:
        name: a name in `filters.FILTERS`, or `package.module:function`.
        label: its name in the funnel, where one filter is listed twice.
        kinds: the `kind` of the rows it applies to; None for all.
        parameters: keyword arguments of the filter.
    """

    name: str
    label: str | None = None
    kinds: list[str] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


# name -> place of its function.
FILTERS: dict[str, str] = {
    "correct": "open_r1.filters.rules:correct",
    "finished": "open_r1.filters.rules:finished",
    "has_answer": "open_r1.filters.rules:has_answer",
    "well_formed": "open_r1.filters.rules:well_formed",
    "one_language": "open_r1.filters.rules:one_language",
    "short_paragraphs": "open_r1.filters.rules:short_paragraphs",
    "no_code_in_reasoning": "open_r1.filters.rules:no_code_in_reasoning",
    "little_repetition": "open_r1.filters.rules:little_repetition",
    "length": "open_r1.filters.rules:length",
    "min_reward": "open_r1.filters.rules:min_reward",
    "pass_rate": "open_r1.filters.rules:pass_rate",
    "majority": "open_r1.filters.rules:majority",
    "distinct": "open_r1.filters.rules:distinct",
    "best": "open_r1.filters.rules:best",
}
# Steps of every selection, before and after the filters.
OWN_STEPS = ("sampled", "judged", "reasoning", "deduplicate", "selected", "pairs")
_ENTRY_KEYS = ("name", "label", "kinds")


@dataclass(frozen=True)
class Filter:
    """One step with its parameters.

    Args:
        name: its name in the funnel.
        kinds: the `kind` of the rows it applies to; None for all.
        call: the function, with its parameters bound.
        columns: the columns that a row filter takes after the completion.
        optional: those of `columns` that the data may lack.
        group: it is called once with all samples of a prompt.
    """

    name: str
    kinds: tuple[str, ...] | None
    call: Callable[..., Any]
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    group: bool

    def reasons(self, samples: list[Row]) -> list[str | None]:
        """Why each of a prompt's samples is rejected; None where it is kept or has another kind.

        Raises:
            RecipeError: the function failed, or did not return a reason or None for every sample.
        """
        if self.kinds is None:
            return self._check_reasons(samples)
        of_kind = [row.get("kind") in self.kinds for row in samples]
        found = iter(self._check_reasons([row for row, mine in zip(samples, of_kind, strict=True) if mine]))
        return [next(found) if mine else None for mine in of_kind]

    def _check_reasons(self, samples: list[Row]) -> list[str | None]:
        reasons = self._compute_reasons(samples)
        for row, reason in zip(samples, reasons, strict=True):
            # A filter that returns True for "keep it" would drop everything.
            if reason is not None and not (isinstance(reason, str) and reason):
                raise RecipeError(
                    f"filters: {self.name} gave {reason!r} for prompt {row['prompt_id']}, sample {row['sample']}; a "
                    "filter returns None to keep a sample, or a text that says why it is rejected"
                )
        return reasons

    def _compute_reasons(self, samples: list[Row]) -> list[str | None]:
        if not samples:
            return []
        row = samples[0]
        try:
            if self.group:
                reasons = list(self.call(samples))
                if len(reasons) == len(samples):
                    return reasons
                problem = f"it gave {len(reasons)} reasons for {len(samples)} samples"
            else:
                reasons = []
                for row in samples:
                    values = [_text(row["prompt"]) if name == "prompt" else row.get(name) for name in self.columns]
                    reasons.append(self.call(row["completion"], *values))
                return reasons
        except RecipeError:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        raise RecipeError(
            f"filters: {self.name} failed on prompt {row['prompt_id']}, sample {row['sample']}: {problem}"
        )


def _text(prompt: str | list[Row]) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def step_name(entry: FilterConfig) -> str:
    return entry.label or entry.name.rpartition(":")[2]


def find_filter(name: str) -> Callable[..., Any]:
    """The function of a name in `FILTERS`, or of `package.module:function`.

    Raises:
        RecipeError: unknown name; suggests the nearest.
    """
    return import_place(locate(name, FILTERS, "filters", "filter"), f"filters: {name}")


def check_filters(entries: list[FilterConfig], metrics: list[str] | None) -> None:
    """Refuse unknown names, two steps of one name, and wrong, unknown or missing parameters.

    Args:
        entries: the recipe's `filters`.
        metrics: names of its rewards; None if the samples were judged before, and their scores are not known yet.

    Raises:
        RecipeError: names the entry and what to do.
    """
    names = [step_name(entry) for entry in entries]
    for i, entry in enumerate(entries):
        if names[i] in OWN_STEPS:
            raise RecipeError(f"filters.{i}: {names[i]!r} is a step of every selection; give this one another `label`")
        if names.index(names[i]) != i:
            raise RecipeError(
                f"filters.{i}: {names[i]!r} is listed twice, and steps count by name; give one a `label`"
            )
        function = find_filter(entry.name)
        given = _convert_parameters(function, entry, f"filters.{i}: {entry.name}")
        if hasattr(function, "check"):
            try:
                function.check(metrics, **given)
            except RecipeError as error:
                raise RecipeError(f"filters.{i}: {entry.name}: {error}") from error


def build_filters(entries: list[FilterConfig]) -> list[Filter]:
    """The steps of entries that passed `check_filters`."""
    return [_build_filter(entry, find_filter(entry.name)) for entry in entries]


def _build_filter(entry: FilterConfig, function: Callable[..., Any]) -> Filter:
    first, *others = inspect.signature(function).parameters.values()
    columns = [a for a in others if a.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return Filter(
        name=step_name(entry),
        kinds=None if entry.kinds is None else tuple(entry.kinds),
        call=partial(function, **_convert_parameters(function, entry, f"filters: {entry.name}")),
        columns=tuple(a.name for a in columns),
        optional=tuple(a.name for a in columns if a.default is not inspect.Parameter.empty),
        group=first.name == "samples",
    )


def _convert_parameters(function: Callable[..., Any], entry: FilterConfig, at: str) -> dict[str, Any]:
    """An entry's parameters in the types that the function declares."""
    arguments = list(inspect.signature(function).parameters.values())
    if not arguments or arguments[0].name not in ("completion", "samples"):
        raise RecipeError(f"{at}: the first argument of a filter is `completion` or `samples`")
    known = {a.name: a for a in arguments if a.kind is inspect.Parameter.KEYWORD_ONLY}
    for key in entry.parameters:
        if key not in known:
            hint = suggest_nearest(key, [*known, *_ENTRY_KEYS]) if known else "; it has none"
            if key in [a.name for a in arguments]:
                hint = f": it is not keyword-only; write `def {function.__name__}({arguments[0].name}, *, {key})`"
            raise RecipeError(f"{at} has no parameter {key!r}{hint}")
    for key, argument in known.items():
        if argument.default is inspect.Parameter.empty and key not in entry.parameters:
            raise RecipeError(f"{at} needs `{key}`")
    hints = typing.get_type_hints(function)
    return {key: convert_value(value, hints.get(key, Any), f"{at}: {key}") for key, value in entry.parameters.items()}
