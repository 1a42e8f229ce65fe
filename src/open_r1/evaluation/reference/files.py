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


TYPES = {"int", "float", "printed", "sourced", "[key]"}  # parts that pydantic adds to the place of an error

Number = int | float  # kept apart, because an integer was rounded to whole numbers when printed


class Protocol(Strict):
    """How a figure was sampled, as far as its source says, with the keys of an evaluation's protocol."""

    k: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    note: str | None = None


class Sourced(Strict):
    """A figure with its own source, for instance where two versions of a paper disagree."""

    value: Number
    source: str


Metric = Annotated[str, Field(pattern=f"^({METRIC})$")]
Given = Annotated[
    Annotated[Number, Tag("printed")] | Annotated[list[Sourced], Tag("sourced")],
    Discriminator(lambda value: "sourced" if isinstance(value, list) else "printed"),
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
    """A file of published figures; `benchmarks` overrides keys of `protocol` for one benchmark."""

    title: str
    source: str
    note: str | None = None
    protocol: Protocol = Protocol()
    benchmarks: dict[str, Protocol] = {}
    models: dict[str, Model]


class Track(Strict):
    """One metric of a training: values at ascending steps, with or without a band."""

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

    def interpolate(self, name: str, steps: Sequence[float]) -> np.ndarray:
        """`mean`, `low` or `high` at any steps between the first and the last, by straight lines."""
        return np.interp(steps, self.step, getattr(self, name))


class Band(Strict):
    """A further run of the same recipe lies between low and high with this probability at each point."""

    level: Annotated[float, Field(gt=0, lt=1)]


class MadeFrom(Strict):
    """A run that a curve was made from."""

    run: str
    seed: int | None = None
    commit: str | None = None


class Curves(Strict):
    """A file of curves, published or made from runs of one `recipe` (without the keys in which seeds differ)."""

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
                raise ValueError(f"metrics.{key}: low and high go with `band`; one of the two is missing")
        return self


def list_references() -> list[str]:
    """The reference files that come with the recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_reference(name: str) -> Published | Curves:
    """Read and check a reference file.

    Args:
        name: of a file in recipes/reference, or the path of another file (ending in .yaml).

    Raises:
        RecipeError: there is no such file, or one of its keys is unknown, missing, of the wrong type or out of range.
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
        raise RecipeError(f"{path}: {_describe_error(error)}") from None


def _describe_error(error: ValidationError) -> str:
    """The first error: its key and the reason."""
    details = [(".".join(str(part) for part in one["loc"] if part not in TYPES), one) for one in error.errors()]
    # A value that may have several types has one error for each; the last is for the widest type.
    key, first = [(key, one) for key, one in details if key == details[0][0]][-1]
    reason = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return (f"{key}: " if first["loc"] else "") + reason[:1].lower() + reason[1:]
