"""The table of filters by name, and the parameters each takes."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import RecipeError, suggest_nearest
from .rules import Row


@dataclass
class FilterConfig:
    """One step of a selection; the filter's own parameters stand beside its name.

    Args:
        name: a name in `filters.FILTERS`, or `package.module:function`.
        label: its name in the funnel, where one filter is listed twice.
        kinds: rows it applies to, by their `kind`; None for all.
        parameters: keyword arguments of the filter.
    """

    name: str
    label: str | None = None
    kinds: list[str] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


# name -> where its function is.
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
# Steps that the selection itself takes, before and after the filters.
OWN_STEPS = ("sampled", "judged", "reasoning", "deduplicate", "selected", "pairs")
_ENTRY_KEYS = ("name", "label", "kinds")


@dataclass(frozen=True)
class Filter:
    """One step, ready to be called.

    Args:
        name: in the funnel.
        kinds: of the rows it applies to; None for all.
        call: the function with its parameters filled in.
        columns: of a row, that a row filter is called with after the completion.
        optional: those of them that the data need not have.
        group: it is called with all samples of a prompt.
    """

    name: str
    kinds: tuple[str, ...] | None
    call: Callable[..., Any]
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    group: bool

    def reasons(self, samples: list[Row]) -> list[str | None]:
        """Why each of a prompt's samples goes; None where it stays, or is of another kind.

        Raises:
            RecipeError: the function failed, or did not answer for every sample; names the first of them.
        """
        if self.kinds is None:
            return self._checked(samples)
        of_kind = [row.get("kind") in self.kinds for row in samples]
        found = iter(self._checked([row for row, mine in zip(samples, of_kind, strict=True) if mine]))
        return [next(found) if mine else None for mine in of_kind]

    def _checked(self, samples: list[Row]) -> list[str | None]:
        reasons = self._called(samples)
        for row, reason in zip(samples, reasons, strict=True):
            # A filter that answers True for "keep it" would drop everything.
            if reason is not None and not (isinstance(reason, str) and reason):
                raise RecipeError(
                    f"filters: {self.name} gave {reason!r} for prompt {row['prompt_id']}, sample {row['sample']}; a "
                    "filter returns None to keep a sample, or a text that says why it goes"
                )
        return reasons

    def _called(self, samples: list[Row]) -> list[str | None]:
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
        RecipeError: there is none; names the nearest.
    """
    if ":" not in name and name not in FILTERS:
        raise RecipeError(f"filters: there is no filter named {name!r}{suggest_nearest(name, list(FILTERS))}")
    module, _, function = FILTERS.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"filters: {name} cannot be imported ({error})") from error


def check_filters(entries: list[FilterConfig], metrics: list[str] | None) -> None:
    """Refuse unknown names, two steps of one name, and wrong, unknown or missing parameters.

    Args:
        entries: of the recipe.
        metrics: names of its rewards; None if the samples were judged before, and their scores are not known yet.

    Raises:
        RecipeError: naming the entry and what to do.
    """
    names = [step_name(entry) for entry in entries]
    for i, entry in enumerate(entries):
        if names[i] in OWN_STEPS:
            raise RecipeError(f"filters.{i}: {names[i]!r} is a step of every selection; give this one another `label`")
        if names.index(names[i]) != i:
            raise RecipeError(f"filters.{i}: {names[i]!r} is listed twice, and is counted by name; give one a `label`")
        function = find_filter(entry.name)
        given = _checked_parameters(function, entry, f"filters.{i}: {entry.name}")
        if hasattr(function, "check"):  # values that only the filter can refuse
            try:
                function.check(metrics, **given)
            except RecipeError as error:
                raise RecipeError(f"filters.{i}: {entry.name}: {error}") from error


def build_filters(entries: list[FilterConfig]) -> list[Filter]:
    """The steps of entries that `check` has let pass."""
    return [_built(entry, find_filter(entry.name)) for entry in entries]


def _built(entry: FilterConfig, function: Callable[..., Any]) -> Filter:
    first, *others = inspect.signature(function).parameters.values()
    columns = [a for a in others if a.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return Filter(
        name=step_name(entry),
        kinds=None if entry.kinds is None else tuple(entry.kinds),
        call=partial(function, **_checked_parameters(function, entry, f"filters: {entry.name}")),
        columns=tuple(a.name for a in columns),
        optional=tuple(a.name for a in columns if a.default is not inspect.Parameter.empty),
        group=first.name == "samples",
    )


def _checked_parameters(function: Callable[..., Any], entry: FilterConfig, at: str) -> dict[str, Any]:
    """The entry's parameters in the types that the function declares."""
    arguments = list(inspect.signature(function).parameters.values())
    if not arguments or arguments[0].name not in ("completion", "samples"):
        raise RecipeError(f"{at}: the first argument of a filter is `completion` or `samples`")
    known = {a.name: a for a in arguments if a.kind is inspect.Parameter.KEYWORD_ONLY}
    for key in entry.parameters:
        if key not in known:
            hint = suggest_nearest(key, [*known, *_ENTRY_KEYS]) if known else "; it has none"
            if key in [a.name for a in arguments]:
                hint = f": it is no keyword argument; write `def {function.__name__}({arguments[0].name}, *, {key})`"
            raise RecipeError(f"{at} has no parameter {key!r}{hint}")
    for key, argument in known.items():
        if argument.default is inspect.Parameter.empty and key not in entry.parameters:
            raise RecipeError(f"{at} needs `{key}`")
    hints = typing.get_type_hints(function)
    return {key: _typed(value, hints.get(key, Any), f"{at}: {key}") for key, value in entry.parameters.items()}


def _typed(value: Any, hint: Any, at: str) -> Any:
    """A YAML value as the type of its parameter (YAML reads `1e-6` as a text)."""
    from pydantic import TypeAdapter, ValidationError

    # A number is never meant by true/false.
    if isinstance(value, bool) and hint is not Any and bool not in (hint, *typing.get_args(hint)):
        raise RecipeError(f"{at}: true/false is not a number or a text")
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise RecipeError(f"{at}: got {value!r}; {error.errors()[0]['msg'].lower()}") from None
