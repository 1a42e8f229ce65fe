"""Which evaluations may be compared: of the same problems, by the same judge and protocol; `allow` permits more."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..errors import RecipeError, suggest_nearest
from . import tables

Json = dict[str, Any]

LETTERS = string.ascii_uppercase  # names of the runs
PROTOCOL = ("prompt", "system_prompt", "chat_template", "k", "temperature", "top_p", "top_k", "max_tokens")
ALLOWED = ("problems", "grader", "verifier", *PROTOCOL)  # what `allow` may name
ADVICE = {
    "grader": "judge the older run again (`open-r1 evaluate ... --rejudge`); for a training's before and after, "
    "evaluate its models (`open-r1 evaluate RUN ...`)"
}
ONE_VERSION = re.compile(r" [0-9a-f]{12} \(math-verify .*\)")  # in older runs, one version covered all verifiers

Known = Annotated[float, Field(allow_inf_nan=False)] | None
Share = Annotated[float, Field(ge=0, le=1)] | None


class _Problem(TypedDict):
    id: str
    samples: Annotated[int, Field(ge=1)]
    evidence: Annotated[int, Field(ge=0)]
    correct: Annotated[int, Field(ge=0)]
    truncated: Annotated[int, Field(ge=0)]
    tokens: Known


class _Figure(TypedDict):
    value: Share
    low: Share
    high: Share


class _Protocol(TypedDict):
    k: Annotated[int, Field(ge=1)]


class _Lengths(TypedDict):
    mean: dict[Literal["value", "low", "high"], Known]


class _Evaluation(TypedDict):
    """The keys that a comparison reads; a damaged file is refused before anything is computed from it."""

    name: str
    identity: str
    grader: str
    protocol: _Protocol
    metrics: Annotated[dict[str, _Figure], Field(min_length=1)]
    bounds: dict[str, tuple[Share, Share]]
    shares: dict[str, dict[Literal["value", "low", "high"], Share]]
    tokens: _Lengths
    by_problem: Annotated[list[_Problem], Field(min_length=1)]


_SHAPE = TypeAdapter(_Evaluation)


@dataclass
class Side:
    """One evaluation of a comparison: the letter of its run, its file, its content, and its problems by id."""

    letter: str
    path: Path
    found: Json
    by_id: dict[str, Json]


@dataclass
class Group:
    """Evaluations of the same problems; the others are compared with the first."""

    name: str
    sides: list[Side]
    differing: list[str] = field(default_factory=list)  # allowed differences, in words


def load_evaluations(run: str, letter: str) -> dict[str, Side]:
    """Read the evaluations of a run, by the names of their files; `RUN_DIR:name` reads one.

    Raises:
        RecipeError: no such run or evaluation, or a damaged file.
    """
    directory, name = Path(run), None
    if not directory.is_dir() and ":" in run:
        before, _, name = run.rpartition(":")
        directory = Path(before)
    if not directory.is_dir():
        raise RecipeError(f"{run}: there is no run directory {directory}")
    paths = sorted((directory / "evaluations").glob("*.json"))
    if not paths:
        raise RecipeError(
            f"{run}: holds no evaluations/*.json; evaluate it first, or if that was interrupted, run the same command "
            "again: it continues"
        )
    if name is not None:
        there = [path.stem for path in paths]
        if name not in there:
            raise RecipeError(f"{run}: there is no evaluation {name!r} in {directory}{suggest_nearest(name, there)}")
        paths = [path for path in paths if path.stem == name]
    found = {path: _read(path) for path in paths}
    return {
        path.stem: Side(letter, path, content, {problem["id"]: problem for problem in content["by_problem"]})
        for path, content in found.items()
    }


def _read(path: Path) -> Json:
    """The content of an evaluation's file, checked."""
    again = "evaluate the run again to replace it; stored completions are not sampled a second time"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: is damaged ({error}); {again}") from error
    needed = list(_Evaluation.__annotations__)
    missing = [key for key in needed if key not in found] if isinstance(found, dict) else needed
    if missing:
        raise RecipeError(f"{path}: another version wrote this evaluation: it lacks {', '.join(missing)}; {again}")
    try:
        _SHAPE.validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{path}: is damaged at {at} ({first['msg'].lower()}); {again}") from error
    ids = [problem["id"] for problem in found["by_problem"]]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise RecipeError(f"{path}: holds the problem {twice!r} twice; ids must differ to be compared")
    return found


def group_evaluations(runs: Sequence[str], loaded: list[dict[str, Side]]) -> list[Group]:
    """Group evaluations by name; if every run has a single one, they form one group whatever their names.

    Raises:
        RecipeError: a run has no benchmark in common with the first.
    """
    first, *others = loaded
    if _are_single(loaded):
        sides = [side for by_name in loaded for side in by_name.values()]
        return [Group(" and ".join(dict.fromkeys(side.path.stem for side in sides)), sides)]
    groups = [
        Group(name, [side, *(by_name[name] for by_name in others if name in by_name)]) for name, side in first.items()
    ]
    groups = [group for group in groups if len(group.sides) > 1]
    left = [i for i, by_name in enumerate(others, 1) if not set(by_name) & set(first)]
    if left:
        theirs = ", ".join(loaded[left[0]])
        raise RecipeError(
            f"{runs[left[0]]}: has no benchmark in common with {runs[0]}: {theirs} against {', '.join(first)}; "
            "RUN_DIR:name picks one evaluation of each"
        )
    return groups


def _are_single(loaded: list[dict[str, Side]]) -> bool:
    return all(len(by_name) == 1 for by_name in loaded)


def describe_left_out(loaded: list[dict[str, Side]]) -> list[str]:
    """Evaluations that only some of the runs have, in words."""
    if _are_single(loaded):
        return []
    letters: dict[str, list[str]] = {}
    for by_name in loaded:
        for name, side in by_name.items():
            letters.setdefault(name, []).append(side.letter)
    return [f"{name}: only in {', '.join(having)}" for name, having in letters.items() if len(having) < len(loaded)]


def refuse_same_file(groups: list[Group]) -> None:
    """Check that no file is compared with itself.

    Raises:
        RecipeError: two runs are the same evaluation.
    """
    for group in groups:
        seen: dict[Path, Side] = {}
        for side in group.sides:
            other = seen.setdefault(side.path.resolve(), side)
            if other is not side:
                raise RecipeError(
                    f"{other.letter} and {side.letter} are the same evaluation, {side.path}; name another run"
                )


def refuse_incompatible(runs: Sequence[str], groups: list[Group], allow: Sequence[str]) -> None:
    """Check that evaluations of a group differ only in keys of `allow`, and note these differences in the group.

    Raises:
        RecipeError: other differences, all in one message.
    """
    refused: dict[str, list[str]] = {}
    for group in groups:
        first, *others = group.sides
        for side in others:
            for key, words in _find_differences(first, side).items():
                if key in allow:
                    group.differing.append(words)
                else:
                    refused.setdefault(key, []).append(f"{group.name}: {words}")
    if not refused:
        return
    lines = [f"  {words}" for differences in refused.values() for words in differences]
    advice = [ADVICE[key] for key in refused if key in ADVICE]
    what = "; ".join([*advice, f"to compare them nevertheless: --allow {' '.join(refused)}"])
    named = ", ".join(f"{letter} is {run}" for letter, run in zip(LETTERS, runs, strict=False))
    raise RecipeError("\n".join([f"these runs cannot be compared ({named}):", *lines, what]))


def _find_differences(a: Side, b: Side) -> dict[str, str]:
    """Key of `ALLOWED` -> both values in words, where two evaluations differ."""
    differences = {}
    if a.found["identity"] != b.found["identity"]:
        common = len(a.by_id.keys() & b.by_id.keys())
        differences["problems"] = (
            f"problems: {len(a.by_id):,} of {a.letter}, {len(b.by_id):,} of {b.letter}, "
            f"of which {common:,} have the same id, though maybe another text or solution"
        )
        if not common:
            raise RecipeError(f"{b.path}: not one of its problems is in {a.path}; nothing can be compared")
    for key in ("grader", "verifier", *PROTOCOL):
        ours, theirs = (side.found["protocol"].get(key, side.found.get(key)) for side in (a, b))
        if ours != theirs:
            old, new = tables.format_setting(ours), tables.format_setting(theirs)
            both = f"two texts that begin with {old}" if old == new else f"{old} of {a.letter}, {new} of {b.letter}"
            differences[key] = f"{key}: {both}"
    old = [side.letter for side in (a, b) if ONE_VERSION.search(side.found["grader"])]
    if "grader" in differences and len(old) == 1:
        differences["grader"] += (
            f"; the version of {old[0]} covers all verifiers (an older form) and the other only its own, so the "
            "versions do not show whether the verdicts differ"
        )
    return differences
