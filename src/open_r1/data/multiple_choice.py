"""Sources that keys of a recipe cannot describe: functions for a source's `path`, called with `seed` and `args`."""

from __future__ import annotations

import random
from typing import Any

import datasets

from ..config.schema import DatasetConfig
from ..errors import RecipeError
from . import sources

LETTERS = "ABCDEFGHIJ"  # the letters that a multiple choice's judge reads


def multiple_choice(
    seed: int, path: str, right: str, wrong: list[str], name: str | None = None, split: str = "train"
) -> datasets.Dataset:
    """Questions with their options in an order of their own: columns `A`, `B`, ... and `solution`, the right letter.

    The order hangs on the options alone, not on the seed: a problem must be the same in every run that is compared.

    Args:
        seed: of the run; not used.
        path: of the source, as in `datasets`.
        right: the column of the right option.
        wrong: the columns of the others.
        name: of the hub dataset's configuration.
        split: to read.

    Raises:
        RecipeError: a column is missing, an option is empty, the right one is also a wrong one, too many options.
    """
    rows = sources.load_source(DatasetConfig(path, name=name, split=split), seed)
    letters = LETTERS[: 1 + len(wrong)]
    if not 0 < len(wrong) < len(LETTERS):
        raise RecipeError(f"args.wrong: 1 to {len(LETTERS) - 1} columns beside the right one, got {len(wrong)}")
    for column in [right, *wrong]:
        if column not in rows.column_names:
            raise RecipeError(f"{path}: column {column!r} is missing; it has {', '.join(rows.column_names)}")

    def lettered(row: dict[str, Any], i: int) -> dict[str, Any]:
        options = [str("" if row[column] is None else row[column]).strip() for column in [right, *wrong]]
        if "" in options:
            raise RecipeError(f"{path}, row {i}: {[right, *wrong][options.index('')]!r} is empty")
        if options[0] in options[1:]:
            raise RecipeError(f"{path}, row {i}: the right option {options[0]!r} is also a wrong one")
        shuffled = random.Random("\n".join(sorted(options))).sample(sorted(options), len(options))
        return dict(zip(letters, shuffled, strict=True)) | {"solution": letters[shuffled.index(options[0])]}

    return rows.map(lettered, with_indices=True)
