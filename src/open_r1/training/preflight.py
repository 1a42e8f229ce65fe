"""`open-r1 check`: checks the data, the rewards and the prompt of a recipe before training.

Every reward scores five trial completions of each row: the gold answer in the format of R1-Zero's prompt, the same
after reasoning in another language, a corrupted answer, an empty completion, and one that ends in the reasoning.
GRPO and RLOO runs do the same on a few rows when they start.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from .. import models
from ..config import protocol
from ..config.recipe import Recipe
from ..config.schema import DATA_TASKS, RL_TASKS
from ..data import columns, contamination, presenting
from ..data.rows import StoredRows, load_rows
from ..engines import registry
from ..errors import RecipeError
from ..estimate import estimate
from ..evaluation.problems import load_benchmarks, load_problems
from ..prompts import PROMPTS
from ..rewards.registry import Findings, RewardConfig, check_ready, find_reward, read_signature
from ..rewards.scoring import Result, Reward, ScoredBatch, pick_gravest, read_score
from ..rewards.verdict import Verdict
from ..run.run import Run

TRIALS = ("gold", "rambling", "corrupted", "empty", "truncated")
RAMBLING = {"zh": "我们再想一想这个问题。", "en": "Let us think about this problem once more. "}
QUICK_ROWS = 8  # rows checked when a training starts
SHOWN = 5  # rows listed for each problem
NO_EVIDENCE = 0.5  # share of gold answers without a correct verdict above which most of a batch would mislead


def check_recipe(recipe: Recipe, rows: int = 64) -> Findings:
    """Check everything that does not need the model's weights.

    Args:
        recipe: loaded with `planned`, so that a machine without its GPUs can check it.
        rows: number of rows that are tried.

    Raises:
        RecipeError: the data cannot be loaded.
    """
    checks = dict.fromkeys(DATA_TASKS, check_data_task) | {"evaluate": check_evaluation}
    findings = checks.get(recipe.task, check_training)(recipe, rows)
    estimate.note_memory(recipe, findings)
    return findings


def check_training(recipe: Recipe, rows: int) -> Findings:
    """Check the data, the prompt and the rewards of a training."""
    loaded = presenting.load_datasets(recipe.data.datasets, recipe.task, recipe.data, recipe.seed, recipe.run.rewards)
    tried = pick_rows(loaded, rows)
    findings = Findings()
    check_contamination(recipe, loaded, findings)
    tokenizer = _try_tokenizer(recipe, findings)
    if tokenizer is not None:
        findings.table += [*render_row(recipe, tried[0], tokenizer), ""]
        if recipe.task == "sft" and "messages" in tried[0]:
            try:
                models.check_turns_end(tokenizer)
            except RecipeError as error:
                findings.fatal.append(str(error))
        check_lengths(recipe, tried, tokenizer, findings)
    if recipe.task in RL_TASKS:
        opens = tokenizer is not None and models.opens_think(tried[0]["prompt"], tokenizer)
        limit = int(recipe.given.get("max_completion_length") or 256)
        scored = ScoredBatch(recipe.run.rewards, opens_think=opens, max_tokens=limit)
        try_rewards(scored, tried, tokenizer, recipe.run.max_error_share, findings)
        check_group(recipe, findings)
    return findings


def check_data_task(recipe: Recipe, rows: int) -> Findings:
    """Check the rows of sample, select and mix, the engine, and the rewards of a selection.

    Raises:
        RecipeError: the data cannot be loaded, or the engine is unknown.
    """
    findings = Findings()
    stored = load_rows(recipe)
    step = max(1, len(stored) // rows)
    tried = [stored.slice(i, i + 1)[0] for i in range(0, len(stored), step)][:rows]
    check_contamination(recipe, stored, findings)
    findings.said.append(f"{len(stored):,} rows with the columns {', '.join(stored.features)}")
    if recipe.task == "sample":
        registry.check_engine(recipe.args.engine)
        sampling = recipe.args.sampling
        findings.said.append(f"{sampling.n * len(stored):,} completions of at most {sampling.max_tokens:,} tokens")
    with_prompt = [row for row in tried if row.get("prompt")]
    if recipe.task == "sample" and with_prompt:
        show_prompt(recipe, with_prompt[0], recipe.data.prompt, recipe.data.system_prompt, findings)
    if recipe.task == "select" and recipe.run.rewards and with_prompt:
        scored = ScoredBatch(recipe.run.rewards)
        try_rewards(scored, with_prompt, None, recipe.run.max_error_share, findings)
    return findings


def check_evaluation(recipe: Recipe, rows: int) -> Findings:
    """Check the problems of each benchmark, and its verifier on their gold answers.

    Raises:
        RecipeError: the engine is unknown.
    """
    findings = Findings()
    registry.check_engine(recipe.args.engine)
    for benchmark in load_benchmarks(recipe):
        try:
            problems = load_problems(benchmark, recipe.seed)
        except RecipeError as error:
            findings.fatal.append(str(error))
            continue
        count, step = len(problems), max(1, len(problems) // rows)
        tried = [row for i in range(0, count, step) for row in problems.read(range(i, i + 1))][:rows]
        findings.said.append(
            f"{benchmark.name}: {count:,} problems, {benchmark.k * count:,} completions of at most "
            f"{benchmark.max_tokens:,} tokens, {', '.join(benchmark.metrics)}"
        )
        findings.table.append(f"{benchmark.name}:")
        if recipe.args.completions is None and tried:
            show_prompt(recipe, tried[0], benchmark.prompt, benchmark.system_prompt, findings)
            findings.table.append("")
        for key, (theirs, ours) in protocol.find_departures(recipe.args, benchmark, count, problems.there).items():
            findings.said.append(f"{benchmark.name}: {key} is {ours}, and {theirs} by its protocol")
        try_rewards(ScoredBatch([benchmark.verifier]), tried, None, recipe.run.max_error_share, findings)
    return findings


def check_contamination(recipe: Recipe, rows: columns.Rows | StoredRows, findings: Findings) -> None:
    """Compare the prompts with the recipe's evaluation sets."""
    config = recipe.data.contamination
    if config is None:
        return
    tally = contamination.preview_gate(recipe, rows)
    if tally.contaminated and config.action == "fail":
        findings.fatal.append(contamination.format_refusal(tally))
    elif tally.contaminated or tally.gate.missing:
        findings.warnings.append("\n  ".join([tally.format_summary(), *tally.format_first()]))
    else:
        findings.said.append(tally.format_summary())


def show_prompt(
    recipe: Recipe, row: dict[str, Any], prompt: str, system_prompt: str | None, findings: Findings
) -> None:
    """Show the first prompt as the model will read it, unless a server renders it with its own template."""
    if recipe.args.engine.name == "server":
        return
    tokenizer = _try_tokenizer(recipe, findings)
    if tokenizer is not None:
        presented = presenting.present_prompt(row["prompt"], PROMPTS[prompt], system_prompt, "datasets", 0)
        findings.table += render_row(recipe, {"prompt": presented}, tokenizer)


def _try_tokenizer(recipe: Recipe, findings: Findings) -> PreTrainedTokenizerBase | None:
    """The recipe's tokenizer; without one a warning, and None."""
    try:
        return models.load_tokenizer(recipe)
    except RecipeError as error:
        cause = "the base model is not there yet; it is made first" if recipe.base else str(error)
        findings.warnings.append(f"the prompt is not shown as the model reads it, for want of a tokenizer ({cause})")
        return None


def check_before_training(
    run: Run, rows: columns.Rows, functions: list[Reward], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check the rewards on a few rows when a GRPO or RLOO run starts, and print the warnings.

    Raises:
        RecipeError: training cannot learn anything; `preflight: false` starts it anyway.
    """
    if not (run.recipe.run.preflight and run.main and run.checkpoint is None):
        return
    findings = Findings()
    try_rewards(functions[0].scored, pick_rows(rows, QUICK_ROWS), tokenizer, run.recipe.run.max_error_share, findings)
    for message in [*findings.said, *findings.warnings]:
        run.say(f"check: {message}")
    if findings.fatal:
        raise RecipeError(
            f"check: {'; '.join(findings.fatal)}. See `make check RECIPE={run.recipe.path}`; `preflight: false` "
            "starts anyway"
        )


def pick_rows(rows: columns.Rows, count: int) -> list[dict[str, Any]]:
    """Rows at equal distances in a dataset, or the first rows of a stream."""
    if not hasattr(rows, "select"):
        return list(itertools.islice(iter(rows), count))
    step = max(1, len(rows) // count)
    return [rows[i] for i in range(0, len(rows), step)][:count]


def try_rewards(
    scored: ScoredBatch,
    rows: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None,
    max_error_share: float,
    findings: Findings,
) -> None:
    """Score the trial completions of every row, and note verdicts and scores that are wrong."""
    cases = [(i, trial, text) for i, row in enumerate(rows) for trial, text in build_trials(row, scored).items()]
    check_ready(scored.rewards, findings)
    if findings.fatal:
        return  # each call would wait for a missing service
    completions = [text for _, _, text in cases]
    batch: dict[str, Any] = {
        column: [rows[i].get(column) for i, _, _ in cases] for column in {c for row in rows for c in row}
    }
    batch["completion_ids"] = (
        tokenizer(completions, add_special_tokens=False)["input_ids"]
        if tokenizer
        else [t.split() for t in completions]
    )
    results_RS = scored.results(completions, batch)
    findings.table += format_scores(scored, cases, results_RS)
    verdicts = {
        (i, trial): v for (i, trial, _), v in zip(cases, map(pick_gravest, zip(*results_RS, strict=True)), strict=True)
    }
    _check_verdicts(rows, verdicts, max_error_share, findings)
    for reward, results_S in zip(scored.rewards, results_RS, strict=True):
        _check_spread(reward, cases, results_S, findings)


def build_trials(row: dict[str, Any], scored: ScoredBatch) -> dict[str, str]:
    """Trial completions of a row, by name; without a gold answer only `empty` and `truncated`."""
    gold = find_gold(row)
    prompt = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
    # The question serves as reasoning: it is in the language that the completion should have.
    thought = re.sub(r"</?\w+>", "", prompt)
    foreign = RAMBLING["en" if re.search(r"[\u3040-\u9fff]", thought) else "zh"]
    opener, closed = "" if scored.opens_think else "<think>", "\n</think>\n\n"
    made = {"empty": "", "truncated": f"{opener}\n{thought}"}
    if gold is not None:
        right, wrong = (f"<answer>\n{answer}\n</answer>" for answer in gold)
        made["gold"] = f"{opener}\n{thought}{closed}{right}"
        made["rambling"] = f"{opener}\n{thought}\n{foreign * 4}{closed}{right}"
        made["corrupted"] = f"{opener}\n{thought}{closed}{wrong}"
    return made


def find_gold(row: dict[str, Any]) -> tuple[str, str] | None:
    """A correct and a wrong answer; None if the row has no answer."""
    if row.get("tests") is not None:
        program = row.get("reference")
        return program and (f"```\n{program}\n```", "```\nraise SystemExit\n```")
    if row.get("solution") is not None:
        gold = row["solution"][0] if isinstance(row["solution"], list) else str(row["solution"])
        return f"\\boxed{{{gold}}}", f"\\boxed{{{corrupt_answer(gold)}}}"
    return None


def corrupt_answer(gold: str) -> str:
    """A wrong answer of the same form: another last digit, the next letter of a choice, or other text.

    >>> corrupt_answer("12"), corrupt_answer("(B)"), corrupt_answer("x")
    ('13', '(C)', 'x+1')
    """
    if re.fullmatch(r"\W*[A-E]\W*", gold):
        return re.sub("[A-E]", lambda letter: "BCDEA"["ABCDE".index(letter.group())], gold)
    digits = list(re.finditer(r"\d", gold))
    if not digits:
        return "something else" if re.fullmatch(r"(\\text\{)?[A-Za-z .'-]{3,}\}?", gold) else f"{gold}+1"
    at = digits[-1].start()
    return gold[:at] + str((int(gold[at]) + 1) % 10) + gold[at + 1 :]


def format_scores(scored: ScoredBatch, cases: list[tuple[int, str, str]], results_RS: list[list[Result]]) -> list[str]:
    """A table of the mean score of each reward on each kind of trial."""
    there = [trial for trial in TRIALS if any(case[1] == trial for case in cases)]
    lines = [f"{'reward':<22}" + "".join(f"{trial:>11}" for trial in there)]
    for reward, results_S in zip(scored.rewards, results_RS, strict=True):
        cells = []
        for trial in there:
            scores = [read_score(r) for (_, t, _), r in zip(cases, results_S, strict=True) if t == trial]
            known = [score for score in scores if score is not None]
            cells.append(f"{sum(known) / len(known):.2f}" if known else "-")
        lines.append(f"{reward.metric:<22}" + "".join(f"{cell:>11}" for cell in cells))
    return lines


def _check_verdicts(
    rows: list[dict[str, Any]],
    verdicts: dict[tuple[int, str], Verdict | None],
    max_error_share: float,
    findings: Findings,
) -> None:
    given = [verdict for verdict in verdicts.values() if verdict is not None]
    if not given:
        return
    errors = Counter(verdict.reason for verdict in given if verdict.outcome == "error")
    if errors:
        share = sum(errors.values()) / len(given)
        message = f"the judge itself failed on {share:.0%} of the tries ({errors.most_common(1)[0][0]})"
        (findings.fatal if share > max_error_share else findings.warnings).append(message)
    golds = {i: verdict for (i, trial), verdict in verdicts.items() if trial == "gold" and verdict is not None}
    # A gold answer in prose may be accepted word for word while no other answer can be compared with it.
    tried = [(i, v) for (i, trial), v in verdicts.items() if trial in ("gold", "corrupted") and v is not None]
    unjudged = {i: verdict for i, verdict in tried if verdict.outcome == "unknown"}
    refused = {i: verdict for i, verdict in golds.items() if verdict.outcome == "wrong"}
    for bad, meaning in (
        (unjudged, "cannot be judged, so their samples would train nothing"),
        (refused, "are judged wrong, although they are the gold answers"),
    ):
        if bad:
            message = f"{len(bad)} of {len(golds)} gold answers {meaning}: {_list_answers(rows, bad)}"
            (findings.fatal if len(bad) > NO_EVIDENCE * len(golds) else findings.warnings).append(message)
    for trial in ("corrupted", "empty", "truncated"):
        bad = {i: v for (i, name), v in verdicts.items() if name == trial and v is not None and v.outcome == "correct"}
        count = sum(name == trial for _, name in verdicts)
        if bad:
            message = f"{len(bad)} of {count} {trial} completions are judged correct: {_list_answers(rows, bad)}"
            (findings.fatal if len(bad) > NO_EVIDENCE * count else findings.warnings).append(message)


def _list_answers(rows: list[dict[str, Any]], verdicts: dict[int, Verdict]) -> str:
    golds = {str(rows[i].get("solution", rows[i]["prompt"]))[:60]: verdict.reason for i, verdict in verdicts.items()}
    shown = [
        f"{gold!r}" + (f" ({reason.split(': ')[0][:80]})" if reason else "")
        for gold, reason in itertools.islice(golds.items(), SHOWN)
    ]
    return ", ".join(shown) + (", ..." if len(golds) > SHOWN else "")


def _check_spread(
    reward: RewardConfig, cases: list[tuple[int, str, str]], results_S: list[Result], findings: Findings
) -> None:
    """Warn of a reward that gives no score, or the same score on every trial."""
    tried = [
        (trial, score)
        for (_, trial, _), r in zip(cases, results_S, strict=True)
        if (score := read_score(r)) is not None
    ]
    scores = {score for _, score in tried}
    if not tried:
        findings.warnings.append(
            f"{reward.metric} gave no score on any try: no row is of its kinds, or a column is empty"
        )
    elif "gold" not in {trial for trial, _ in tried} and read_signature(find_reward(reward.name)).columns:
        findings.warnings.append(
            f"{reward.metric} was tried on no correct completion, as no row has an answer; rows of code can have a "
            "correct program in the column `reference`"
        )
    elif len(scores) == 1 and {"gold", "rambling", "truncated"} <= {trial for trial, _ in tried}:
        findings.warnings.append(
            f"{reward.metric} is {scores.pop():g} on every try, right, wrong, rambling or cut off: it teaches nothing "
            "unless samples differ in another way"
        )


def check_group(recipe: Recipe, findings: Findings) -> None:
    """Show how often a group holds both right and wrong samples, by the share of right samples."""
    group = int(recipe.given["num_generations"])
    shares = ", ".join(f"{compute_signal(group, p):.0%} if {p:.0%} of them are" for p in (0.01, 0.05, 0.2, 0.5))
    findings.table += ["", f"groups of {group} with both right and wrong samples: {shares} right"]
    if compute_signal(group, 0.05) < 0.25:
        findings.warnings.append(
            f"num_generations: a group of {group} seldom has a signal on hard problems; the paper takes 16"
        )


def compute_signal(group: int, right: float) -> float:
    """Probability that a group holds both right and wrong samples."""
    return 1 - right**group - (1 - right) ** group


def check_lengths(
    recipe: Recipe, rows: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, findings: Findings
) -> None:
    """Warn of rows that the trainer would truncate."""
    limit = recipe.given.get("max_length")
    if recipe.task in RL_TASKS or limit is None:
        return
    texts = [max(_render_texts(row, tokenizer), key=len) for row in rows]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    cut = sum(length > limit for length in lengths)
    if cut:
        findings.warnings.append(
            f"max_length: {cut} of {len(lengths)} rows are longer than {limit} tokens (the longest {max(lengths)}) "
            "and would be cut, answer first"
        )


def _render_texts(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of a row as the model reads it, or one text for each answer."""
    prompt = row.get("prompt")
    if "messages" in row:
        return [tokenizer.apply_chat_template(row["messages"], tokenize=False)]
    if "text" in row:
        return [row["text"]]
    answers = [row[column] for column in ("completion", "chosen", "rejected") if column in row]
    if not answers:
        return [models.render_prompt(prompt, tokenizer)]
    if isinstance(answers[0], str):
        return [(prompt or "") + answer for answer in answers]
    return [tokenizer.apply_chat_template([*(prompt or []), *answer], tokenize=False) for answer in answers]


def render_row(recipe: Recipe, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Lines that show the first row as the model will read it, with its special tokens."""
    what = "prompt" if recipe.task in (*RL_TASKS, "sample", "evaluate") else "row"
    lines = [f"the first {what}, as the model reads it:"]
    for text in _render_texts(row, tokenizer):
        shown = text if len(text) <= 1500 else f"{text[:1000]}\n[...]\n{text[-500:]}"
        lines += [f"  | {line}" for line in shown.splitlines()] + ["  |"]
    return lines[:-1]
