"""Multiple-choice questions as a source: a function for `path`, which is called with `seed` and `args`."""

from __future__ import annotations

import random
from typing import Any

import datasets

from ..config.schema import DatasetConfig
from ..errors import RecipeError
from . import sources

LETTERS = "ABCDEFGHIJ"  # the letters that the verifier of multiple choice reads


def multiple_choice(
    seed: int, path: str, right: str, wrong: list[str], name: str | None = None, split: str = "train"
) -> datasets.Dataset:
    """Questions with shuffled options: columns `A`, `B`, ... and `solution`, the letter of the right one.

    The order depends on the options only, not on the seed: compared runs must have the same problems.

    Args:
        seed: seed of the run; not used.
        path: path of the source, as in `datasets`.
        right: column of the right option.
        wrong: columns of the wrong options.
        name: configuration of the hub dataset.
        split: split of the source.

    Raises:
        RecipeError: a column is missing, an option is empty, the right option is also a wrong one, or there are too
            many options.
    """
    rows = sources.load_source(DatasetConfig(path, name=name, split=split), seed)
    letters = LETTERS[: 1 + len(wrong)]
    if not 0 < len(wrong) < len(LETTERS):
        raise RecipeError(f"args.wrong: 1 to {len(LETTERS) - 1} columns beside the right one, got {len(wrong)}")
    for column in [right, *wrong]:
        if column not in rows.column_names:
            raise RecipeError(f"{path}: column {column!r} is missing; it has {', '.join(rows.column_names)}")

    def shuffle_options(row: dict[str, Any], i: int) -> dict[str, Any]:
        options = [str("" if row[column] is None else row[column]).strip() for column in [right, *wrong]]
        if "" in options:
            raise RecipeError(f"{path}, row {i}: {[right, *wrong][options.index('')]!r} is empty")
        if options[0] in options[1:]:
            raise RecipeError(f"{path}, row {i}: the right option {options[0]!r} is also a wrong one")
        shuffled = random.Random("\n".join(sorted(options))).sample(sorted(options), len(options))
        return dict(zip(letters, shuffled, strict=True)) | {"solution": letters[shuffled.index(options[0])]}

    return rows.map(shuffle_options, with_indices=True)
