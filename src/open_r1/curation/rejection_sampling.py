"""Rejection sampling: the samples of a prompt pass the steps of a selection and become training rows.

Workers import this module, so it does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..filters import rules
from ..filters.registry import Filter, build_filters
from ..filters.rules import count_words, read_cause
from ..prompts import Messages
from ..rewards.math.extraction import extract_answer_part
from .funnel import Funnel, Row

if TYPE_CHECKING:
    from ..config.sharded_tasks import PairsConfig, SelectConfig


EMPTY_THINK = "<think>\n\n</think>\n\n"
# Columns of a sample that are kept beside its messages, where the data has them.
LINEAGE = (
    "prompt_id", "row", "sample", "seed", "model", "source", "kind", "verdict", "reason", "scores", "tokens",
    "pass_rate", "solution", "language",
)  # fmt: skip
# Columns that differ between the samples of a prompt; all others belong to the prompt.
SAMPLE_COLUMNS = (
    "sample", "completion", "tokens", "finish_reason", "refused", "seed", "model", "verdict", "reason", "scores",
)  # fmt: skip
PROMPT_LINEAGE = ("prompt_id", "source", "kind", "pass_rate", "solution", "language")
SIDE_LINEAGE = tuple(column for column in LINEAGE if column not in PROMPT_LINEAGE)  # chosen_*, rejected_*


def list_steps(args: SelectConfig, filters: list[Filter]) -> list[str]:
    """Names of all steps of a selection, in order."""
    pairs = args.output == "pairs"
    names = ["sampled", "judged", *(step.name for step in filters)]
    names += ["pairs"] if pairs else [] if args.reasoning == "keep" else ["reasoning"]
    names += ["deduplicate"] if args.deduplicate else []
    return names if pairs else [*names, "selected"]


@dataclass(frozen=True)
class Selection:
    """The rows selected from some prompts.

    Args:
        rows: training rows.
        prompts: rows of the curriculum; empty without one.
        funnel: counts of the steps.
    """

    rows: list[Row]
    prompts: list[Row]
    funnel: Funnel


def select_from_prompts(prompts: list[list[Row]], args: SelectConfig) -> Selection:
    """Select rows from the samples of several prompts; one call of a worker process."""
    filters = build_filters(args.filters)
    funnel = Funnel(list_steps(args, filters), args.examples)
    rows = [row for samples in prompts for row in select_from_prompt(samples, args, filters, funnel)]
    prompt_rows = [] if args.curriculum is None else [build_prompt_row(samples) for samples in prompts]
    return Selection(rows, prompt_rows, funnel)


def build_prompt_row(samples: list[Row]) -> Row:
    """A prompt's own columns, its `pass_rate`, and the number of `samples` judged correct or wrong."""
    own = {column: value for column, value in samples[0].items() if column not in SAMPLE_COLUMNS}
    return own | {"samples": sum(row["verdict"] in ("correct", "wrong") for row in samples)}


def select_from_prompt(samples: list[Row], args: SelectConfig, filters: list[Filter], funnel: Funnel) -> list[Row]:
    """Training rows from all samples of one prompt, in order.

    Args:
        samples: judged rows, ordered by (sample, row); the column `pass_rate` is added to them.
        args: the recipe's arguments.
        filters: its filters, built.
        funnel: gets the counts.
    """
    rate = compute_pass_rate(samples)
    for row in samples:
        row["pass_rate"] = rate
    funnel.count_samples(samples)
    left = funnel.apply_step("sampled", samples, [None] * len(samples))
    left = complete = funnel.apply_step("judged", left, [find_row_problem(row) for row in left])
    for step in filters:
        if not left:
            return []
        left = funnel.apply_step(step.name, left, step.reasons(left))
    if args.output == "pairs":
        return build_pairs(left, complete, args, funnel) if left else []
    return build_messages(left, args, funnel)


def find_row_problem(row: Row) -> str | None:
    """Why a row cannot be judged or trained on; None if it can."""
    if row.get("refused"):
        return f"refused: {read_cause(row['refused'])}"
    if not row["prompt"]:
        return "empty prompt"
    return None if row["completion"] and not row["completion"].isspace() else "empty completion"


def compute_pass_rate(samples: list[Row]) -> float | None:
    """correct / (correct + wrong); None without either, as `unknown` and `error` are no evidence.

    >>> compute_pass_rate([{"verdict": "correct"}, {"verdict": "wrong"}, {"verdict": "unknown"}])
    0.5
    """
    verdicts = [row["verdict"] for row in samples]
    correct, wrong = verdicts.count("correct"), verdicts.count("wrong")
    return correct / (correct + wrong) if correct + wrong else None


def build_messages(samples: list[Row], args: SelectConfig, funnel: Funnel) -> list[Row]:
    """Conversations for SFT with their lineage."""
    if not samples or args.reasoning == "keep":
        answers = [row["completion"] for row in samples]
    else:
        answers = [rewrite_completion(row["completion"], row, args) for row in samples]
        reasons = [None if answer else "no answer after the reasoning" for answer in answers]
        samples, answers = funnel.apply_step("reasoning", samples, reasons), [answer for answer in answers if answer]
    return [
        {"messages": [*read_conversation(row["prompt"]), _build_answer(answer)]}
        | {key: row.get(key) for key in LINEAGE}
        # The count was of the completion with its reasoning.
        | ({} if answer == row["completion"] else {"tokens": None})
        for row, answer in zip(samples, answers, strict=True)
    ]


def read_conversation(prompt: str | Messages) -> Messages:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _build_answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def rewrite_completion(completion: str, row: Row, args: SelectConfig) -> str | None:
    """A completion with or without its reasoning, by the keys `reasoning` and `no_reasoning`.

    Args:
        completion: text of the sample.
        row: the row that decides whether the query is simple.
        args: the recipe's arguments.

    Returns:
        None if the completion is nothing but reasoning.
    """
    if args.reasoning == "keep" or (args.reasoning == "auto" and not is_simple(row, args)):
        return completion
    answer = extract_answer_part(completion)
    return answer and (EMPTY_THINK if args.no_reasoning == "empty_think" else "") + answer


def is_simple(row: Row, args: SelectConfig) -> bool:
    """True of a short question with a short answer that no verifier judges ("hello"); R1 gives no reasoning there."""
    if row["verdict"]:
        return False
    question = read_conversation(row["prompt"])[-1]["content"]
    short = len(count_words(question)) <= args.simple_prompt_words
    return short and len(count_words(extract_answer_part(row["completion"]))) <= args.simple_answer_words


def build_pairs(left: list[Row], complete: list[Row], args: SelectConfig, funnel: Funnel) -> list[Row]:
    """Preference pairs of one prompt, with the lineage of both sides.

    Args:
        left: samples that passed the filters; the chosen sides come from them.
        complete: all samples with a prompt and a completion.
        args: the recipe's arguments.
        funnel: gets the counts.
    """
    config = args.pairs
    score = _find_score(config)
    better = [row for row in left if (score(row) == 1.0 if config.by == "verdict" else score(row) is not None)]
    worse = [row for row in complete if score(row) is not None and row.get("finish_reason") != "length"]
    if config.by == "verdict":
        worse = [row for row in worse if score(row) == 0.0]
    size = dict(zip(map(id, complete), rules.measure_lengths(complete), strict=True))
    pairs = _match_nearest(better, worse, score, lambda row: size[id(row)], args)
    partner = {id(chosen): rejected for chosen, rejected in pairs}
    unpaired = "enough pairs, or no worse sample left" if pairs else "no worse sample of comparable length"
    if not worse:
        unpaired = "no wrong sample" if config.by == "verdict" else "no worse sample"
    candidates = {id(row) for row in better}

    def find_reason(row: Row) -> str | None:
        if id(row) in candidates:
            return None if id(row) in partner else unpaired
        return f"no evidence by {config.by}" if score(row) is None else "wrong"

    chosen = funnel.apply_step("pairs", left, [find_reason(row) for row in left])
    return [_build_pair(row, partner[id(row)], score, size, args) for row in chosen]


def _find_score(config: PairsConfig) -> Callable[[Row], float | None]:
    """The function that scores a sample by `pairs.by`; it returns None without evidence."""
    if config.by == "verdict":
        return lambda row: {"correct": 1.0, "wrong": 0.0}.get(row["verdict"])
    # Without a verdict there is no evidence, whatever another reward says.
    return lambda row: None if row["verdict"] in ("unknown", "error") else rules.read_score(row, config.by)


def _match_nearest(
    better: list[Row],
    worse: list[Row],
    score: Callable[[Row], float | None],
    size: Callable[[Row], int],
    args: SelectConfig,
) -> list[tuple[Row, Row]]:
    """Pairs of comparable length, nearest in length first; each sample is in one pair, and ties go to the first."""
    config = args.pairs
    candidates = []
    for i, chosen in enumerate(better):
        for j, rejected in enumerate(worse):
            margin = score(chosen) - score(rejected)
            short, long = sorted((size(chosen), size(rejected)))
            if margin > 0 and margin >= config.min_margin and long <= config.max_length_ratio * short:
                candidates.append((long - short, i, j))
    pairs: list[tuple[Row, Row]] = []
    used: set[int] = set()
    for _, i, j in sorted(candidates):
        chosen, rejected = better[i], worse[j]
        if len(pairs) == config.per_prompt:
            break
        if not used & {id(chosen), id(rejected)} and all(_rewrite_pair(chosen, rejected, args)):
            used |= {id(chosen), id(rejected)}
            pairs.append((chosen, rejected))
    return pairs


def _rewrite_pair(chosen: Row, rejected: Row, args: SelectConfig) -> tuple[str | None, str | None]:
    """Both completions with or without reasoning; the chosen one decides whether the query is simple."""
    return tuple(rewrite_completion(row["completion"], chosen, args) for row in (chosen, rejected))


def _build_pair(chosen: Row, rejected: Row, score: Any, size: dict[int, int], args: SelectConfig) -> Row:
    texts = _rewrite_pair(chosen, rejected, args)
    short, long = sorted((size[id(chosen)], size[id(rejected)]))
    return (
        {
            "prompt": read_conversation(chosen["prompt"]),
            "chosen": [_build_answer(texts[0])],
            "rejected": [_build_answer(texts[1])],
            "margin": score(chosen) - score(rejected),
            "length_ratio": long / max(short, 1),
        }
        | {key: chosen.get(key) for key in PROMPT_LINEAGE}
        | {f"chosen_{key}": chosen.get(key) for key in SIDE_LINEAGE}
        | {f"rejected_{key}": rejected.get(key) for key in SIDE_LINEAGE}
    )
