"""The files of `recipes/reference`: published figures, and the curves of trainings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from ...errors import RecipeError, suggest_nearest

FOLDER = Path(__file__).parents[4] / "recipes" / "reference"
METRIC = r"(pass|maj)@[1-9]\d*|exact_match|prompt_strict|correct|accuracy|resolved|f1|win_rate|percentile|rating"
SHARE = re.compile(r"evaluation/((pass|maj)@\d+|format|language)")


class Strict(BaseModel):
    """A part of a reference file: an unknown key or a wrong type is an error, and every number is finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


# What pydantic adds to the place of a mistake: the type it has tried there.
TYPES = {"int", "float", "printed", "sourced", "[key]"}

Number = int | float  # an integer was printed without decimals, which tells its rounding


class Protocol(Strict):
    """How a figure was sampled, as far as its source says; the keys are those of an evaluation's protocol."""

    k: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    note: str | None = None


class Sourced(Strict):
    """A figure with a source of its own, as where two versions of a paper disagree."""

    value: Number
    source: str


def _kind(value: Any) -> str:
    return "sourced" if isinstance(value, list) else "printed"


Metric = Annotated[str, Field(pattern=f"^({METRIC})$")]
Given = Annotated[
    Annotated[Number, Tag("printed")] | Annotated[list[Sourced], Tag("sourced")],
    Discriminator(_kind),
]


class Model(Strict):
    """The figures of one model: benchmark -> metric -> percent, or Elo points under `rating`."""

    hub: str | None = None
    figures: dict[str, dict[Metric, Given]]

    @model_validator(mode="after")
    def _in_range(self) -> Model:
        for benchmark, metrics in self.figures.items():
            for metric, given in metrics.items():
                for value in [figure.value for figure in given] if isinstance(given, list) else [given]:
                    if value < 0 or (value > 100 and metric != "rating"):
                        raise ValueError(f"figures.{benchmark}.{metric}: {value} is not a percentage")
        return self


class Published(Strict):
    """A file of published figures; `benchmarks` says what of `protocol` is another for one benchmark."""

    title: str
    source: str
    note: str | None = None
    protocol: Protocol = Protocol()
    benchmarks: dict[str, Protocol] = {}
    models: dict[str, Model]


class Track(Strict):
    """One metric of a curve: values at ascending steps, with or without a band around them."""

    step: Annotated[list[int], Field(min_length=1)]
    mean: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Track:
        if self.step[0] < 0 or any(a >= b for a, b in itertools.pairwise(self.step)):
            raise ValueError("step: must ascend from 0 or more")
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high: one is missing")
        for name in ("mean", "low", "high"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.step):
                raise ValueError(f"{name}: {len(values)} values for {len(self.step)} steps")
        for step, *values in zip(self.step, self.low or self.mean, self.mean, self.high or self.mean, strict=True):
            if values != sorted(values):
                raise ValueError(f"step {step}: low, mean and high do not ascend: {values}")
        return self

    def at(self, name: str, steps: Sequence[float]) -> np.ndarray:
        """`mean`, `low` or `high` at any steps between the first and the last, in straight lines."""
        return np.interp(steps, self.step, getattr(self, name))


class Band(Strict):
    """A further run of the same recipe lies between low and high with this probability at each point."""

    level: Annotated[float, Field(gt=0, lt=1)]


class MadeFrom(Strict):
    """One of the runs a curve was made of."""

    run: str
    seed: int | None = None
    commit: str | None = None


class Curves(Strict):
    """A file of one training's curves, published or made of runs of one recipe (kept without what seeds differ in)."""

    title: str
    source: str
    note: str | None = None
    steps: Annotated[int, Field(ge=1)]
    band: Band | None = None
    runs: list[MadeFrom] = []
    recipe: dict[str, Any] | None = None
    metrics: Annotated[dict[str, Track], Field(min_length=1)]

    @model_validator(mode="after")
    def _in_range(self) -> Curves:
        for key, track in self.metrics.items():
            if SHARE.fullmatch(key) and not all(0 <= value <= 1 for value in track.mean):
                raise ValueError(f"metrics.{key}: a share is between 0 and 1")
            if track.step[-1] > self.steps:
                raise ValueError(f"metrics.{key}: step {track.step[-1]} of a training of {self.steps} steps")
            if (track.low is None) != (self.band is None):
                raise ValueError(f"metrics.{key}: low and high go with `band`; the one is there without the other")
        return self


def list_references() -> list[str]:
    """The reference files that come with the recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_reference(name: str) -> Published | Curves:
    """A reference, checked.

    Args:
        name: of a file in recipes/reference, or the path of one's own (ending in .yaml).

    Raises:
        RecipeError: there is none, or a key of it is unknown, missing, of the wrong type or out of range.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise RecipeError(f"no reference {name!r}{suggest_nearest(name, list_references())}")
    return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _load(path: Path, changed: int) -> Published | Curves:
    """`changed` is part of the key, so that an edited file is read again."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    kinds = {"models": Published, "metrics": Curves}
    kind = next((cls for key, cls in kinds.items() if isinstance(content, dict) and key in content), None)
    if kind is None:
        raise RecipeError(f"{path}: a reference has `models` (published figures) or `metrics` (curves of a training)")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_told(error)}") from None


def _told(error: ValidationError) -> str:
    """The first mistake: its key and what is wrong there."""

    def key(mistake: Any) -> str:
        return ".".join(str(part) for part in mistake["loc"] if part not in TYPES)

    mistakes = error.errors()
    # Of a value that may have several types there is one message for each; the last is of the widest.
    first = [mistake for mistake in mistakes if key(mistake) == key(mistakes[0])][-1]
    reason = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    at = f"{key(first)}: " if first["loc"] else ""
    return at + reason[:1].lower() + reason[1:]
