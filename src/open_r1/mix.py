"""Mix: several sources as one dataset, each by weight, by count, by epochs, or whole.

What is drawn from a source depends on the seed and on that source alone, so that a change of one leaves the choice
within the others as it was. Rows stay on disk; in memory are only arrays of their numbers.
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
from open_r1.data import card, columns, contamination, deduplicate, hub, shards
from open_r1.data.columns import MESSAGES, TEXT
from open_r1.data.rows import StoredRows, load_rows
from open_r1.errors import RecipeError
from open_r1.prompts import Messages
from open_r1.run import job_array, lifecycle
from open_r1.run.run import Run

BATCH = 1000  # rows in memory at once
# Kept beside the messages, or the pair: where a row comes from, and what was found of it.
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
    refuse_presentation(recipe)
    problem = hub.check_push(recipe.args.hub_dataset_id)
    this = lifecycle.start_run(recipe)
    if problem:
        this.say(problem)
    rows, repeated = deduplicate.drop_duplicates(load_rows(recipe, recipe.args.keep), recipe.args.deduplicate)
    if repeated:
        this.say(f"deduplicate: {repeated['exact']:,} rows repeat an earlier one, {repeated['near']:,} nearly")
    rows = contamination.apply_gate(this, rows, recipe.data.contamination)
    job_array.check_same_rows(this, rows.identity())
    summary = mix(recipe, rows, this.dir / "data") | {"repeated": repeated}
    this.say(card.format_mixture_table(summary))
    lifecycle.finish_dataset(this, summary)
    return this


def refuse_presentation(recipe: Recipe) -> None:
    """A mixture keeps prompts as their sources have them, and so fits any model."""
    for key, plain in (("prompt", "chat"), ("system_prompt", None), ("chat_template", None)):
        if getattr(recipe.data, key) != plain:
            raise RecipeError(
                f"{key}: a mix keeps prompts as they are; set it in the recipe that trains on the mixture"
            )


def mix(recipe: Recipe, stored: StoredRows, folder: Path) -> dict[str, Any]:
    """Draw from the sources, write the mixture's files, and measure it.

    Args:
        recipe: of a mix.
        stored: rows of its sources, without those that are left out.
        folder: gets the parquet files; those that are there already stay.

    Returns:
        What `dataset_card.table` draws: samples, rounds and lengths by source and by kind.

    Raises:
        RecipeError: a source that is too small for what is asked of it, or sources that do not go together.
    """
    form = common_form(stored)
    kept = _kept_of_each(stored)
    counts = sizes(recipe.data.datasets, [len(numbers) for numbers in kept], recipe.args.rows)
    drawn = [
        draw(numbers, count, recipe.seed, identity(source))
        for source, numbers, count in zip(recipe.data.datasets, kept, counts, strict=True)
    ]
    order = interleaved(counts, recipe.seed)
    mixture = Mixture(stored, drawn, order, form, recipe.args.keep)
    shards.remove_partial_files(folder)
    files = shards.Shards(folder, len(order), recipe.args.shard_rows)
    for number in files.missing():
        shards.write_file(files.path(number), mixture.batches(files.range(number)), mixture.features)
    available = [len(rows) for _, rows in stored.parts]
    return summarize(recipe, folder, order, available, [len(numbers) for numbers in kept])


def _kept_of_each(stored: StoredRows) -> list[np.ndarray]:
    """For each source, the numbers of its rows that are not left out."""
    numbers = stored.numbers(0, len(stored))
    firsts = [end - len(rows) for (_, rows), end in zip(stored.parts, stored.ends, strict=True)]
    return [
        numbers[(numbers >= first) & (numbers < end)] - first for first, end in zip(firsts, stored.ends, strict=True)
    ]


def sizes(sources: list[DatasetConfig], available: list[int], rows: int | None) -> list[int]:
    """How many rows each source gives.

    Args:
        sources: with `weight`, `rows`, `epochs` or nothing, which takes the whole source once.
        available: rows of each, after all that leaves rows out.
        rows: of a weighted mixture; None takes as many as the scarcest source allows. A weighted source repeats only
            if it has `epochs`, and at most so often.

    Raises:
        RecipeError: a source is too small, or nothing of it would be taken.
    """
    most = [round(n * (source.epochs or 1)) for source, n in zip(sources, available, strict=True)]
    weights = [source.weight for source in sources if source.weight is not None]
    if weights:
        # 1e-9: a product such as 0.1 * 30 may come out just below a whole number.
        fits = int(min(n / weight for n, weight in zip(most, weights, strict=True)) + 1e-9)
        counts = _shared_out(fits if rows is None else rows, weights)
    else:
        counts = [n if source.rows is None else source.rows for source, n in zip(sources, most, strict=True)]
    for i, (source, n) in enumerate(zip(sources, available, strict=True)):
        at = f"datasets.{i} ({source.path})"
        if not n:
            raise RecipeError(f"{at}: none of its rows is left, as all repeat others or are contaminated")
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


def _shared_out(total: int, weights: list[float]) -> list[int]:
    """`total` in the proportions of the weights, by largest remainders."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def identity(source: DatasetConfig) -> str:
    """What a source's draw depends on beside the seed: not its place in the recipe, nor what is asked of it."""
    return f"{source.path} {source.name} {source.split}"


def draw(numbers: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    """`count` of a source's row numbers in a random order, epoch after epoch, each in an order of its own.

    A smaller count is the beginning of a larger one.
    """
    epochs = range(-(-count // max(len(numbers), 1)))
    orders = [_generator(seed, name, epoch).permutation(numbers) for epoch in epochs]
    return np.concatenate([*orders, numbers[:0]])[:count]


def interleaved(counts: list[int], seed: int) -> np.ndarray:
    """For each row of the mixture, the number of the source it comes from."""
    return _generator(seed, "order").permutation(np.repeat(np.arange(len(counts), dtype=np.int32), counts))


def _generator(*seed: Any) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(repr(seed).encode()).digest()))


def common_form(stored: StoredRows) -> str:
    """What all sources hold: messages, pairs or prompts.

    Raises:
        RecipeError: they do not all hold the same.
    """
    forms = [_form(source, rows) for source, rows in stored.parts]
    for i, form in enumerate(forms):
        if form != forms[0]:
            (first, _), (other, _) = stored.parts[0], stored.parts[i]
            raise RecipeError(
                f"datasets.{i} ({other.path}) holds {HOLDS[form]}, and datasets.0 ({first.path}) {HOLDS[forms[0]]}; "
                "they cannot be one dataset: give each its own recipe"
            )
    return forms[0]


def _form(source: DatasetConfig, rows: datasets.Dataset) -> str:
    have = {*rows.features, *source.template, *source.extract}
    return next(FORMS[layout] for layout in columns.LAYOUTS["mix"] if have.issuperset(layout))


class Mixture:
    """The rows of a mixture in their order.

    Args:
        stored: the sources.
        drawn: of each source, the numbers of its rows in the order they are taken.
        order: for each row of the mixture, its source.
        form: a key of `HOLDS`.
        keep: columns kept beside the form's own and the lineage.
    """

    def __init__(self, stored: StoredRows, drawn: list[np.ndarray], order: np.ndarray, form: str, keep: list[str]):
        self.drawn, self.order, self.form = drawn, order, form
        parts = zip(stored.parts, drawn, strict=True)
        # Selecting moves no rows: it puts an array of numbers before those that lie on the disk.
        self.rows = StoredRows([(source, rows.select(numbers)) for (source, rows), numbers in parts])
        known = stored.features
        own = {c: known[c] if form == "prompts" else MESSAGES for c in _columns(form)}
        # Prompts are trained on by rewards, which may read any column.
        kept = known if form == "prompts" else {c: known[c] for c in (*LINEAGE[form], *keep) if c in known}
        self.features = datasets.Features(own | kept | {"kind": TEXT, "source": TEXT, "license": TEXT})

    def batches(self, span: range) -> Iterator[list[dict[str, Any]]]:
        """The rows at these places. A source's rows come as they were drawn, so a batch is one slice of each."""
        at = np.bincount(self.order[: span.start], minlength=len(self.drawn))
        for start in range(span.start, span.stop, BATCH):
            which = self.order[start : min(start + BATCH, span.stop)]
            stop = at + np.bincount(which, minlength=len(self.drawn))
            waiting = [self._taken(source, low, high) for source, (low, high) in enumerate(zip(at, stop, strict=True))]
            yield [next(waiting[source]) for source in which]
            at = stop

    def _taken(self, number: int, low: int, high: int) -> Iterator[dict[str, Any]]:
        source, rows = self.rows.parts[number]
        first = int(self.rows.ends[number]) - len(rows)
        at = f"datasets.{number} ({source.path})"
        # Sampled completions may stand beside the conversation that their prompt was taken from.
        sampled = not scoring.holds_conversations(source, rows)
        for i, row in zip(
            self.drawn[number][low:high], self.rows.slice(first + int(low), first + int(high)), strict=True
        ):
            row["license"] = source.license or row.get("license")
            if self.form == "messages":
                if sampled and row["prompt"] is not None:
                    row.pop("messages", None)
                row["messages"] = conversation(row, at, int(i))
            if self.form == "pairs":
                row["prompt"] = rejection_sampling.read_conversation(row["prompt"])
                row |= {side: columns.parse_messages(row[side], at, int(i)) for side in _columns("pairs")}
            yield {column: row.get(column) for column in self.features}


def _columns(form: str) -> tuple[str, ...]:
    return next(layout for layout, name in FORMS.items() if name == form)


def conversation(row: dict[str, Any], at: str, i: int) -> Messages:
    """The messages of a row, which end with an answer.

    Raises:
        RecipeError: they do not, or there are none.
    """
    if row.get("messages"):
        messages = columns.parse_messages(row["messages"], at, i)
    elif row.get("prompt") and row.get("completion"):
        asked = row["prompt"]
        asked = (
            [{"role": "user", "content": asked}] if isinstance(asked, str) else columns.parse_messages(asked, at, i)
        )
        messages = [*asked, *columns.parse_messages(row["completion"], at, i)]
    else:
        raise RecipeError(f"{at}, row {i}: there is no conversation in it; a select recipe leaves such rows out")
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise RecipeError(f"{at}, row {i}: the conversation does not end with an answer: {str(messages)[:300]}")
    return messages


def summarize(
    recipe: Recipe, folder: Path, order: np.ndarray, available: list[int], kept: list[int]
) -> dict[str, Any]:
    """The figures of the paper's Table 5 for this mixture, read back from its files.

    Args:
        recipe: of the mix.
        folder: its files.
        order: for each row, its source.
        available: rows of each source.
        kept: of them, those that were not left out.
    """
    figures = card.measure_dataset(folder, order, scoring.build_token_counter(recipe))
    sources = [
        {
            "name": card.name_source(vars(source)),
            "asked": _asked(source),
            "epochs": round(row["samples"] / n, 4),
            "available": every,
            "left_out": every - n,
        }
        for source, row, every, n in zip(recipe.data.datasets, figures["by_source"], available, kept, strict=True)
    ]
    return figures | {"sources": sources, "tokenizer": recipe.data.tokenizer_name_or_path}


def _asked(source: DatasetConfig) -> str:
    asked = [
        *([f"weight {source.weight:g}"] if source.weight is not None else []),
        *([f"{source.rows:,} rows"] if source.rows is not None else []),
        *([f"{source.epochs:g} epochs"] if source.epochs is not None else []),
    ]
    return ", ".join(asked) or "all"


if __name__ == "__main__":
    lifecycle.run_from_command_line(main)
