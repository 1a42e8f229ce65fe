"""Evaluation: sample the problems of benchmarks, judge the completions, and report figures with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from open_r1 import models
from open_r1.benchmarks.registry import resolve_metric
from open_r1.config import protocol
from open_r1.config.recipe import Recipe
from open_r1.config.schema import BenchmarkConfig
from open_r1.data import shards
from open_r1.data.columns import TEXT
from open_r1.data.shards import Shards
from open_r1.engines import registry
from open_r1.engines import sampling as engines_sampling
from open_r1.engines.sampling import SamplingPlan, complete_prompts, fill_files, measure_speed
from open_r1.errors import RecipeError
from open_r1.evaluation import grading, metrics
from open_r1.evaluation.problems import Problems, Sets, load_benchmarks, load_problems
from open_r1.evaluation.reference import published
from open_r1.evaluation.stored_completions import StoredCompletions
from open_r1.report import run_report
from open_r1.run import job_array, lifecycle
from open_r1.run.run import Run
from open_r1.system.files import write_json
from open_r1.system.progress import Progress

Row = dict[str, Any]

JUDGED_ROWS = 512  # samples judged side by side
SHOWN = 8  # problems with samples in the report
COLUMNS = datasets.Features({"benchmark": TEXT, "problem": TEXT, **engines_sampling.COLUMNS})


def main(recipe: Recipe) -> Run:
    args = recipe.args
    registry.check_engine(args.engine)
    if args.reference is not None:
        published.find_published(args.reference)  # refuse an unknown name before anything is sampled
    this = lifecycle.start_run(recipe)
    sets = Sets([load_problems(benchmark, recipe.seed) for benchmark in load_benchmarks(recipe)], recipe.seed)
    stored = load_stored_completions(recipe, sets)
    job_array.check_same_rows(this, sets.identity(*([stored.identity()] if stored else [])))
    completions = Shards(this.dir / "data", len(sets), args.shard_rows)
    verdicts = Shards(this.dir / "judged", len(sets), args.shard_rows)
    if stored is None:
        # Before the files are divided: a process without files loads no model, and the others would wait for it.
        this.recipe = models.ensure_model(recipe)
    todo = job_array.list_own_files(this, completions)
    if todo and args.rejudge and stored is None:
        raise RecipeError(
            f"rejudge: {len(todo)} of {completions.count} files of completions are not in {completions.folder}; name "
            "their run by --output_dir, or sample them first without --rejudge"
        )
    if args.rejudge and this.main:
        lifecycle.save_recipe(this)
    if stored is not None:
        this.say(stored.describe())
        for number in todo:
            shards.write_file(completions.path(number), [stored.read_rows(sets, completions, number)], COLUMNS)
    elif todo:
        total = sum(
            len(span) * problems.benchmark.k for n in todo for problems, span in sets.split(completions.range(n))
        )
        fill_files(this, completions, todo, total, partial(sample, sets, completions), COLUMNS)
    remove_other_verdicts(this, verdicts, sets)
    for number in job_array.list_own_files(this, verdicts):
        judge(this, sets, completions, verdicts, number)
    with job_array.claim_finish(this, verdicts) as last:
        if last:
            summarize(this, sets)
    return this


def load_stored_completions(recipe: Recipe, sets: Sets) -> StoredCompletions | None:
    """The completions that the recipe names, if it does."""
    args = recipe.args
    if args.completions is None:
        return None
    return StoredCompletions(args.completions, sets, recipe.seed)


def sample(sets: Sets, files: Shards, engine: registry.Engine, number: int, progress: Progress) -> list[Row]:
    """Sample the completions of one file."""
    made = []
    for problems, span in sets.split(files.range(number)):
        benchmark = problems.benchmark
        rows = list(problems.read(span))
        drawn = build_sampling(benchmark, sets.seed)
        plan = SamplingPlan(benchmark.k, drawn, benchmark.prompt, benchmark.system_prompt)
        # Seeded by the place in the benchmark: a problem's samples do not depend on the other benchmarks.
        for row, made_K in zip(rows, complete_prompts(engine, rows, list(span), plan, progress), strict=True):
            own = {"benchmark": benchmark.name, "problem": problems.ids[row["row"]]}
            made += [own | completion for completion in made_K]
    return made


def build_sampling(benchmark: BenchmarkConfig, seed: int) -> registry.Sampling:
    return registry.Sampling(benchmark.temperature, benchmark.top_p, max_tokens=benchmark.max_tokens, seed=seed)


def remove_other_verdicts(this: Run, verdicts: Shards, sets: Sets) -> None:
    """Delete this process's files of verdicts that another version of the judge, or another verifier, wrote."""
    found = 0
    for number in job_array.list_own_numbers(this, verdicts):
        path = verdicts.path(number)
        if shards.is_whole(path) and read_graders(path) != sets.list_graders(verdicts.range(number)):
            path.unlink()
            found += 1
    if found:
        this.say(
            f"{found} of {verdicts.count} files of verdicts are from another version of the judge, and are made again"
        )


def read_graders(path: Path) -> dict[str, tuple[str, str]]:
    """Benchmark -> the versions that judged it, in one file; empty for a damaged file or one without them."""
    try:
        rows = [row for batch in shards.read_file(path, ["benchmark", "grader", "measures"]) for row in batch]
    except RecipeError:
        return {}
    return {row["benchmark"]: (row["grader"], row["measures"]) for row in rows}


def judge(this: Run, sets: Sets, completions: Shards, verdicts: Shards, number: int) -> None:
    """Judge one file of completions.

    Raises:
        RecipeError: the judge itself failed on too many of them; the file is not written.
    """
    spans = list(sets.split(verdicts.range(number)))
    rows = [row for batch in shards.read_file(completions.path(number)) for row in batch]
    judged: list[Row] = []
    for problems, span in spans:
        by_row = {row["row"]: row for row in problems.read(span)}
        own = [by_row[row["row"]] | row for row in rows if row["benchmark"] == problems.benchmark.name]
        for batch in group_problems(own):
            found = problems.grader.grade(batch)
            names = [{key: row[key] for key in ("benchmark", "problem")} for row in batch]
            judged += [name | sample for name, sample in zip(names, found, strict=True)]
    errors = Counter(row["reason"] for row in judged if row["verdict"] == "error")
    if errors.total() > this.recipe.run.max_error_share * len(judged):
        reason, times = errors.most_common(1)[0]
        raise RecipeError(
            f"benchmarks: the judge itself failed on {errors.total()} of {len(judged)} completions, more than "
            f"max_error_share: {this.recipe.run.max_error_share:g} allows. {times} times: {reason}. The completions "
            "are kept; remove the cause, and the same command continues"
        )
    shards.write_file(verdicts.path(number), [judged], grading.FEATURES)


def group_problems(rows: list[Row]) -> Iterator[list[Row]]:
    """Batches of about `JUDGED_ROWS` samples with all samples of their problems."""
    batch: list[Row] = []
    for _, samples in groupby(rows, key=itemgetter("row")):
        batch += samples
        if len(batch) >= JUDGED_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def summarize(this: Run, sets: Sets) -> None:
    """Compute the figures of each benchmark from the verdicts, and write the files, the table and the report."""
    judged: dict[str, dict[int, list[Row]]] = {problems.benchmark.name: {} for problems in sets.sets}
    for batch in shards.read_folder(this.dir / "judged"):
        for row in batch:
            judged[row["benchmark"]].setdefault(row["row"], []).append(row)
    generated = read_model_names(this.dir / "data")
    evaluations = []
    for problems in sets.sets:
        by_row = judged[problems.benchmark.name]
        judged_PK = [by_row.get(place, []) for place in range(len(problems))]
        evaluations.append(build_evaluation(this, problems, judged_PK, generated))
        folder = this.dir / "evaluations"
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{problems.benchmark.name}.json", evaluations[-1])
    tokens = sum(row["tokens"] or 0 for rows in judged.values() for samples in rows.values() for row in samples)
    summary = {
        "model": generated,
        "engine": find_engine_name(this.recipe),
        "completions": sum(found["samples"] for found in evaluations),
        "tokens": tokens,
        "tokens_per_second": measure_speed(this.dir),
        "benchmarks": {found["name"]: metrics.summarize_evaluation(found) for found in evaluations},
    }
    lifecycle.finish_files(this, summary)
    this.say(run_report.format_evaluations(evaluations))
    if published_table := format_published(evaluations, this.recipe.args.reference):
        this.say(published_table)


def format_published(evaluations: list[dict[str, Any]], name: str | None) -> str:
    """The published figures of the same benchmarks, for the terminal; empty where none are known."""
    rows = [row for found in evaluations for row in published.compare_published(found, reference=name)]
    if rows:
        return f"\nbeside what was published:\n{published.format_published_table(rows)}"
    return f"{name} has no figure of these benchmarks and metrics" if name else ""


def find_engine_name(recipe: Recipe) -> str:
    return "elsewhere" if recipe.args.completions is not None else recipe.args.engine.name


def read_model_names(folder: Path) -> str:
    """The model's name, which the engine stored with every completion."""
    return ", ".join(sorted({row["model"] for batch in shards.read_folder(folder, ["model"]) for row in batch}))


def build_evaluation(this: Run, problems: Problems, judged_PK: list[list[Row]], model: str) -> dict[str, Any]:
    """The content of a benchmark's file in `evaluations/`.

    Args:
        this: the run.
        problems: of the benchmark.
        judged_PK: verdicts by problem and sample.
        model: the name to report.

    Raises:
        RecipeError: verdicts of different versions, or problems without a completion.
    """
    benchmark, recipe = problems.benchmark, this.recipe
    at = f"benchmarks.{benchmark.name}"
    every = list(range(benchmark.k))
    lacking = [p for p, judged_K in enumerate(judged_PK) if sorted(row["sample"] for row in judged_K) != every]
    if lacking:
        raise RecipeError(
            f"{at}: {len(lacking)} problems do not have one verdict for each of their {benchmark.k} samples, "
            f"{problems.ids[lacking[0]]!r} first; files of {this.dir}/judged were changed. Delete that folder, and "
            "the same command judges the completions again"
        )
    graders = {row["grader"] for samples in judged_PK for row in samples}
    if len(graders) > 1:
        raise RecipeError(
            f"{at}: its samples were judged by different versions of the judge ({'; '.join(sorted(graders))}); start "
            "the other parts again, and they judge their samples again"
        )
    names = [resolve_metric(name, benchmark.k) for name in benchmark.metrics]
    figures = metrics.compute_figures(judged_PK, names, level=recipe.args.level, seed=recipe.seed)
    for line, question in zip(figures["by_problem"], problems.questions, strict=True):
        line["question"] = question
    return {
        "name": benchmark.name,
        "title": benchmark.title or benchmark.name,
        "step": None,
        "model": model,
        "engine": find_engine_name(recipe),
        "seed": recipe.seed,
        "identity": problems.identity,
        "protocol": {
            "prompt": benchmark.prompt,
            "system_prompt": benchmark.system_prompt,
            "chat_template": recipe.data.chat_template,
            "k": benchmark.k,
            "temperature": benchmark.temperature,
            "top_p": benchmark.top_p,
            "top_k": 0 if recipe.args.completions is None else None,
            "max_tokens": benchmark.max_tokens,
        },
        "departures": protocol.find_departures(recipe.args, benchmark, len(problems), problems.there),
        "source": benchmark.source,
        "verifier": benchmark.verifier.name,
        "grader": graders.pop(),
        "level": recipe.args.level,
        **figures,
        "examples": pick_examples(this.dir / "data", problems, judged_PK),
    }


def pick_examples(folder: Path, problems: Problems, judged_PK: list[list[Row]]) -> list[Row]:
    """A few problems with samples, from those never solved to those always solved."""
    order = sorted(range(len(judged_PK)), key=lambda p: sum(row["verdict"] == "correct" for row in judged_PK[p]))
    chosen = sorted({order[round(i)] for i in np.linspace(0, len(order) - 1, min(SHOWN, len(order)))}, key=order.index)
    name, columns = problems.benchmark.name, ["benchmark", "row", "sample", "completion"]
    texts = {
        (row["row"], row["sample"]): row["completion"]
        for batch in shards.read_folder(folder, columns)
        for row in batch
        if row["benchmark"] == name and row["row"] in chosen
    }
    if lost := [place for place in chosen for row in judged_PK[place] if (place, row["sample"]) not in texts]:
        raise RecipeError(
            f"{folder}: completions of {name}'s problem {problems.ids[lost[0]]!r} are missing, "
            "although they were judged; delete data/ and judged/, and the same command samples them again"
        )
    return [
        grading.pick_example(
            next(problems.read(range(place, place + 1))),
            judged_PK[place],
            [texts[place, row["sample"]] for row in judged_PK[place]],
        )
        for place in chosen
    ]


if __name__ == "__main__":
    lifecycle.run_from_command_line(main)
