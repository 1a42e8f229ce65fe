"""Mix: one dataset of several sources, each taken by weight, by number of rows, by epochs, or whole.

The rows drawn from a source depend on the seed and that source alone: changing one source leaves the draws from the
others as they were. Rows stay on disk; only arrays of their numbers are in memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from open_r1.config.recipe import Recipe
from open_r1.config.schema import DatasetConfig
from open_r1.curation import rejection_sampling, scoring
from open_r1.data import card, columns, shards
from open_r1.data.columns import MESSAGES, TEXT
from open_r1.data.contamination import apply_gate
from open_r1.data.deduplicate import drop_duplicates
from open_r1.data.rows import StoredRows, load_rows
from open_r1.errors import RecipeError
from open_r1.prompts import Messages
from open_r1.run.job_array import check_same_rows
from open_r1.run.lifecycle import finish_dataset, run_from_command_line, start_run
from open_r1.run.run import Run

BATCH = 1000  # rows in memory at once
# Columns kept beside the messages or the pair: the row's origin, verdict and scores.
LINEAGE = {
    "messages": (*rejection_sampling.LINEAGE, "finish_reason"),
    "pairs": (
        *(*rejection_sampling.PROMPT_LINEAGE, "margin", "length_ratio"),
        *(f"{side}_{column}" for side in ("chosen", "rejected") for column in rejection_sampling.SIDE_LINEAGE),
    ),
}
HOLDS = {"messages": "conversations", "pairs": "preference pairs", "prompts": "prompts only"}
FORMS = {
    ("messages",): "messages",
    ("prompt", "completion"): "messages",
    ("prompt", "chosen", "rejected"): "pairs",
    ("prompt",): "prompts",
}


def main(recipe: Recipe) -> Run:
    check_presentation(recipe)
    run = start_run(recipe)
    rows, repeated = drop_duplicates(load_rows(recipe, recipe.args.keep), recipe.args.deduplicate)
    if repeated:
        run.say(f"deduplicate: {repeated['exact']:,} rows repeat an earlier one, {repeated['near']:,} nearly")
    rows = apply_gate(run, rows, recipe.data.contamination)
    check_same_rows(run, rows.identity())
    summary = mix(recipe, rows, run.dir / "data") | {"repeated": repeated}
    run.say(card.format_mixture_table(summary))
    finish_dataset(run, summary)
    return run


def check_presentation(recipe: Recipe) -> None:
    """Refuse keys that change prompts: a mixture keeps its sources' prompts, so that it fits any model."""
    for key, plain in (("prompt", "chat"), ("system_prompt", None), ("chat_template", None)):
        if getattr(recipe.data, key) != plain:
            raise RecipeError(f"{key}: a mix does not change prompts; set it in the recipe that trains on the mixture")


def mix(recipe: Recipe, stored: StoredRows, folder: Path) -> dict[str, Any]:
    """Draw from the sources, write the mixture's files, and measure it.

    Args:
        recipe: recipe of a mix.
        stored: rows of its sources, without repeats and contaminated rows.
        folder: folder of the parquet files; existing files are kept.

    Returns:
        The figures of `card.format_mixture_table`: samples, rounds and lengths by source and by kind.

    Raises:
        RecipeError: a source has too few rows, or the sources hold different kinds of rows.
    """
    form = find_form(stored)
    kept = _list_kept_rows(stored)
    counts = compute_sizes(recipe.data.datasets, [len(numbers) for numbers in kept], recipe.args.rows)
    drawn = [
        # The name leaves out the source's place in the recipe and its `rows`, `weight` and `epochs`.
        draw(numbers, count, recipe.seed, f"{source.path} {source.name} {source.split}")
        for source, numbers, count in zip(recipe.data.datasets, kept, counts, strict=True)
    ]
    order = shuffle_sources(counts, recipe.seed)
    mixture = Mixture(stored, drawn, order, form, recipe.args.keep)
    shards.remove_partial_files(folder)
    files = shards.Shards(folder, len(order), recipe.args.shard_rows)
    for number in files.missing():
        shards.write_file(files.path(number), mixture.batches(files.range(number)), mixture.features)
    available = [len(rows) for _, rows in stored.parts]
    return summarize(recipe, folder, order, available, [len(numbers) for numbers in kept])


def _list_kept_rows(stored: StoredRows) -> list[np.ndarray]:
    """For each source, the numbers of its rows that were kept."""
    numbers = stored.numbers(0, len(stored))
    firsts = [end - len(rows) for (_, rows), end in zip(stored.parts, stored.ends, strict=True)]
    return [
        numbers[(numbers >= first) & (numbers < end)] - first for first, end in zip(firsts, stored.ends, strict=True)
    ]


def compute_sizes(sources: list[DatasetConfig], available: list[int], rows: int | None) -> list[int]:
    """The number of rows taken from each source.

    Args:
        sources: each has `weight`, `rows`, `epochs`, or none of them, which takes the whole source once.
        available: rows of each source that were kept.
        rows: rows of a weighted mixture; None takes as many as the scarcest source allows. A weighted source is
            repeated only if it has `epochs`, and at most that many times.

    Raises:
        RecipeError: a source has too few rows, or none of its rows would be taken.

    >>> compute_sizes([DatasetConfig("a", weight=0.75), DatasetConfig("b", weight=0.25)], [60, 100], None)
    [60, 20]
    """
    most = [round(n * (source.epochs or 1)) for source, n in zip(sources, available, strict=True)]
    weights = [source.weight for source in sources if source.weight is not None]
    if weights:
        # 1e-9, because a product such as 0.1 * 30 may be just below a whole number.
        fits = int(min(n / weight for n, weight in zip(most, weights, strict=True)) + 1e-9)
        counts = _apportion(fits if rows is None else rows, weights)
    else:
        counts = [n if source.rows is None else source.rows for source, n in zip(sources, most, strict=True)]
    for i, (source, n) in enumerate(zip(sources, available, strict=True)):
        at = f"datasets.{i} ({source.path})"
        if not n:
            raise RecipeError(f"{at}: none of its rows is left: all are repeats or contaminated")
        if counts[i] < 1:
            raise RecipeError(f"{at}: none of its {n} rows would be in the mixture; ask for more of it")
        if counts[i] > most[i]:
            has = f"{n} rows" if source.epochs is None else f"{n} rows, {most[i]} in {source.epochs:g} epochs"
            lower = f"lower `rows` to {fits} or less" if weights else "lower its `rows`"
            repeat = f"`epochs: {math.ceil(100 * counts[i] / n) / 100:g}`" + ("" if weights else " in place of `rows`")
            raise RecipeError(
                f"{at}: {counts[i]} rows are asked for, and it has {has}; {lower}, or repeat it: {repeat}"
            )
    return counts


def _apportion(total: int, weights: list[float]) -> list[int]:
    """Divide `total` in proportion to the weights, by largest remainders."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def draw(numbers: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    """`count` of a source's row numbers in random order; each epoch has another order.

    The draw of a smaller count is a prefix of the draw of a larger one.
    """
    epochs = range(-(-count // max(len(numbers), 1)))
    orders = [_generator(seed, name, epoch).permutation(numbers) for epoch in epochs]
    return np.concatenate([*orders, numbers[:0]])[:count]


def shuffle_sources(counts: list[int], seed: int) -> np.ndarray:
    """For each row of the mixture, the number of its source."""
    return _generator(seed, "order").permutation(np.repeat(np.arange(len(counts), dtype=np.int32), counts))


def _generator(*seed: Any) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(repr(seed).encode()).digest()))


def find_form(stored: StoredRows) -> str:
    """The form of all sources: `messages`, `pairs` or `prompts`.

    Raises:
        RecipeError: their forms differ.
    """
    forms = []
    for source, rows in stored.parts:
        columns_there = {*rows.features, *source.template, *source.extract}
        forms.append(next(FORMS[layout] for layout in columns.LAYOUTS["mix"] if columns_there.issuperset(layout)))
    for i, form in enumerate(forms):
        if form != forms[0]:
            (first, _), (other, _) = stored.parts[0], stored.parts[i]
            raise RecipeError(
                f"datasets.{i} ({other.path}) holds {HOLDS[form]}, and datasets.0 ({first.path}) {HOLDS[forms[0]]}; "
                "they cannot be one dataset: give each its own recipe"
            )
    return forms[0]


class Mixture:
    """The rows of a mixture, in order.

    Args:
        stored: rows of the sources.
        drawn: for each source, the numbers of its rows in the order in which they are taken.
        order: for each row of the mixture, the number of its source.
        form: a key of `HOLDS`.
        keep: columns kept beside the form's columns and the lineage.
    """

    def __init__(self, stored: StoredRows, drawn: list[np.ndarray], order: np.ndarray, form: str, keep: list[str]):
        self.drawn, self.order, self.form = drawn, order, form
        parts = zip(stored.parts, drawn, strict=True)
        # `select` copies no rows: it adds an array of indices to the table on disk.
        self.rows = StoredRows([(source, rows.select(numbers)) for (source, rows), numbers in parts])
        known = stored.features
        own = {c: known[c] if form == "prompts" else MESSAGES for c in _columns(form)}
        # Prompts keep all columns, as a reward may read any of them.
        kept = known if form == "prompts" else {c: known[c] for c in (*LINEAGE[form], *keep) if c in known}
        self.features = datasets.Features(own | kept | {"kind": TEXT, "source": TEXT, "license": TEXT})

    def batches(self, span: range) -> Iterator[list[dict[str, Any]]]:
        """Batches of the rows at these positions; a batch takes one slice of each source, in the order drawn."""
        at = np.bincount(self.order[: span.start], minlength=len(self.drawn))
        for start in range(span.start, span.stop, BATCH):
            which = self.order[start : min(start + BATCH, span.stop)]
            stop = at + np.bincount(which, minlength=len(self.drawn))
            waiting = [
                self._read_rows(source, low, high) for source, (low, high) in enumerate(zip(at, stop, strict=True))
            ]
            yield [next(waiting[source]) for source in which]
            at = stop

    def _read_rows(self, number: int, low: int, high: int) -> Iterator[dict[str, Any]]:
        source, rows = self.rows.parts[number]
        first = int(self.rows.ends[number]) - len(rows)
        at = f"datasets.{number} ({source.path})"
        # Rows with sampled completions may keep the conversation that their prompt was taken from.
        sampled = not scoring.holds_conversations(source, rows)
        for i, row in zip(
            self.drawn[number][low:high], self.rows.slice(first + int(low), first + int(high)), strict=True
        ):
            row["license"] = source.license or row.get("license")
            if self.form == "messages":
                if sampled and row["prompt"] is not None:
                    row.pop("messages", None)
                row["messages"] = build_conversation(row, at, int(i))
            if self.form == "pairs":
                row["prompt"] = rejection_sampling.read_conversation(row["prompt"])
                row |= {side: columns.parse_messages(row[side], at, int(i)) for side in _columns("pairs")}
            yield {column: row.get(column) for column in self.features}


def _columns(form: str) -> tuple[str, ...]:
    return next(layout for layout, name in FORMS.items() if name == form)


def build_conversation(row: dict[str, Any], at: str, i: int) -> Messages:
    """The messages of a row, the last of which is an answer.

    Raises:
        RecipeError: there are no messages, or the last is no answer.
    """
    if row.get("messages"):
        messages = columns.parse_messages(row["messages"], at, i)
    elif row.get("prompt") and row.get("completion"):
        prompt = rejection_sampling.read_conversation(row["prompt"])
        messages = [*columns.parse_messages(prompt, at, i), *columns.parse_messages(row["completion"], at, i)]
    else:
        raise RecipeError(f"{at}, row {i}: the row holds no conversation; a select recipe drops such rows")
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise RecipeError(f"{at}, row {i}: the conversation does not end with an answer: {str(messages)[:300]}")
    return messages


def summarize(
    recipe: Recipe, folder: Path, order: np.ndarray, available: list[int], kept: list[int]
) -> dict[str, Any]:
    """The figures of the paper's Table 5 for this mixture, computed from its files.

    Args:
        recipe: recipe of the mix.
        folder: folder of its files.
        order: for each row, the number of its source.
        available: number of rows of each source.
        kept: number of rows of each source without repeats and contaminated rows.
    """
    figures = card.measure_dataset(folder, order, scoring.build_token_counter(recipe))
    sources = [
        {
            "name": card.name_source(vars(source)),
            "asked": _describe_share(source),
            "epochs": round(row["samples"] / n, 4),
            "available": every,
            "left_out": every - n,
        }
        for source, row, every, n in zip(recipe.data.datasets, figures["by_source"], available, kept, strict=True)
    ]
    return figures | {"sources": sources, "tokenizer": recipe.data.tokenizer_name_or_path}


def _describe_share(source: DatasetConfig) -> str:
    parts = [
        *([f"weight {source.weight:g}"] if source.weight is not None else []),
        *([f"{source.rows:,} rows"] if source.rows is not None else []),
        *([f"{source.epochs:g} epochs"] if source.epochs is not None else []),
    ]
    return ", ".join(parts) or "all"


if __name__ == "__main__":
    run_from_command_line(main)
