"""All samples of one prompt through the steps of a selection, and what is left as rows to train on.

Nothing here reads or writes files, or imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..filters import registry, rules
from ..filters.registry import Filter
from ..filters.rules import count_words, read_cause
from ..prompts import Messages
from ..rewards.math.extraction import extract_answer_part
from .funnel import Funnel, Row

if TYPE_CHECKING:
    from ..config.sharded_tasks import PairsConfig, SelectConfig


EMPTY_THINK = "<think>\n\n</think>\n\n"
# Of a sample, where the data has them; `prompt_id`, `row`, `sample`, `verdict`, `reason` and `pass_rate` always are.
LINEAGE = (
    "prompt_id", "row", "sample", "seed", "model", "source", "kind", "verdict", "reason", "scores", "tokens",
    "pass_rate", "solution", "language",
)  # fmt: skip
# Columns of one sample; all others are its prompt's.
SAMPLE_COLUMNS = (
    "sample", "completion", "tokens", "finish_reason", "refused", "seed", "model", "verdict", "reason", "scores",
)  # fmt: skip
PROMPT_LINEAGE = ("prompt_id", "source", "kind", "pass_rate", "solution", "language")
SIDE_LINEAGE = tuple(column for column in LINEAGE if column not in PROMPT_LINEAGE)  # chosen_*, rejected_*


@dataclass(frozen=True)
class Plan:
    """What is done with the samples of a prompt.

    Args:
        args: of the recipe.
        filters: its steps, built.
    """

    args: SelectConfig
    filters: list[Filter]

    @property
    def steps(self) -> list[str]:
        """Names of all steps, in order."""
        names = ["sampled", "judged", *(step.name for step in self.filters)]
        pairs = self.args.output == "pairs"
        if not pairs and self.args.reasoning != "keep":
            names.append("reasoning")
        names += ["pairs"] if pairs else []
        names += ["deduplicate"] if self.args.deduplicate else []
        return names if pairs else [*names, "selected"]


def plan_selection(args: SelectConfig) -> Plan:
    return Plan(args, registry.build_filters(args.filters))


@dataclass(frozen=True)
class Sifted:
    """What came of some prompts.

    Args:
        rows: to train on.
        prompts: rows of the curriculum, if the recipe asks for one.
        funnel: their counts.
    """

    rows: list[Row]
    prompts: list[Row]
    funnel: Funnel


def select_from_prompts(prompts: list[list[Row]], args: SelectConfig) -> Sifted:
    """`sift` for several prompts, in one call that can be made in another process."""
    steps = plan_selection(args)
    funnel = Funnel(steps.steps, args.examples)
    rows = [row for samples in prompts for row in select_from_prompt(samples, steps, funnel)]
    of_prompts = [] if args.curriculum is None else [prompt_row(samples) for samples in prompts]
    return Sifted(rows, of_prompts, funnel)


def prompt_row(samples: list[Row]) -> Row:
    """A prompt without its samples: its own columns, `pass_rate`, and `samples`, how many there is evidence of."""
    own = {column: value for column, value in samples[0].items() if column not in SAMPLE_COLUMNS}
    return own | {"samples": sum(row["verdict"] in ("correct", "wrong") for row in samples)}


def select_from_prompt(samples: list[Row], plan: Plan, funnel: Funnel) -> list[Row]:
    """Rows to train on from all samples of one prompt, in order.

    Args:
        samples: judged rows, ordered by (sample, row); they get their `pass_rate`.
        plan: the steps.
        funnel: counts them.
    """
    rate = pass_rate(samples)
    for row in samples:
        row["pass_rate"] = rate
    funnel.saw(samples)
    left = funnel.passed("sampled", samples, [None] * len(samples))
    left = complete = funnel.passed("judged", left, [find_row_problem(row) for row in left])
    for step in plan.filters:
        if not left:
            return []
        left = funnel.passed(step.name, left, step.reasons(left))
    if plan.args.output == "pairs":
        return as_pairs(left, complete, plan.args, funnel) if left else []
    return as_messages(left, plan.args, funnel)


def find_row_problem(row: Row) -> str | None:
    """Why a row has nothing to judge, or to train on."""
    if row.get("refused"):
        return f"refused: {read_cause(row['refused'])}"
    if not row["prompt"]:
        return "empty prompt"
    return None if row["completion"] and not row["completion"].isspace() else "empty completion"


def pass_rate(samples: list[Row]) -> float | None:
    """right / (right + wrong); None without either. Unknown and error are no evidence."""
    verdicts = [row["verdict"] for row in samples]
    right, wrong = verdicts.count("correct"), verdicts.count("wrong")
    return right / (right + wrong) if right + wrong else None


def as_messages(samples: list[Row], args: SelectConfig, funnel: Funnel) -> list[Row]:
    """Conversations for SFT, with the lineage of each."""
    if not samples or args.reasoning == "keep":
        answers = [row["completion"] for row in samples]
    else:
        answers = [written(row["completion"], row, args) for row in samples]
        reasons = [None if answer else "no answer after the reasoning" for answer in answers]
        samples, answers = funnel.passed("reasoning", samples, reasons), [answer for answer in answers if answer]
    return [
        {"messages": [*read_conversation(row["prompt"]), assistant(answer)]}
        | {key: row.get(key) for key in LINEAGE}
        # They were those of the completion with its reasoning.
        | ({} if answer == row["completion"] else {"tokens": None})
        for row, answer in zip(samples, answers, strict=True)
    ]


def read_conversation(prompt: str | Messages) -> Messages:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def written(completion: str, row: Row, args: SelectConfig) -> str | None:
    """A completion as it is trained on, by `reasoning` and `no_reasoning`; None if nothing but reasoning is there.

    Args:
        completion: of the sample.
        row: decides whether the query is simple.
        args: of the recipe.
    """
    if args.reasoning == "keep" or (args.reasoning == "auto" and not is_simple(row, args)):
        return completion
    answer = extract_answer_part(completion)
    return answer and (EMPTY_THINK if args.no_reasoning == "empty_think" else "") + answer


def is_simple(row: Row, args: SelectConfig) -> bool:
    """A short question with a short answer that no verifier judges ("hello"): R1 gives no reasoning there."""
    if row["verdict"]:
        return False
    question = read_conversation(row["prompt"])[-1]["content"]
    short = len(count_words(question)) <= args.simple_prompt_words
    return short and len(count_words(extract_answer_part(row["completion"]))) <= args.simple_answer_words


def as_pairs(left: list[Row], complete: list[Row], args: SelectConfig, funnel: Funnel) -> list[Row]:
    """Preference pairs of one prompt, with the lineage of both sides.

    Args:
        left: samples that passed the filters: the better sides come from them.
        complete: all samples that there is something of.
        args: of the recipe.
        funnel: counts them.
    """
    config = args.pairs
    score = scorer(config)
    better = [row for row in left if (score(row) == 1.0 if config.by == "verdict" else score(row) is not None)]
    worse = [row for row in complete if score(row) is not None and row.get("finish_reason") != "length"]
    if config.by == "verdict":
        worse = [row for row in worse if score(row) == 0.0]
    size = dict(zip(map(id, complete), rules.measure_lengths(complete), strict=True))
    pairs = nearest_pairs(better, worse, score, lambda row: size[id(row)], args)
    partner = {id(chosen): rejected for chosen, rejected in pairs}
    unpaired = "enough pairs, or no worse sample left" if pairs else "no worse sample of comparable length"
    if not worse:
        unpaired = "no wrong sample" if config.by == "verdict" else "no worse sample"
    able = {id(row) for row in better}

    def reason(row: Row) -> str | None:
        if id(row) in able:
            return None if id(row) in partner else unpaired
        return f"no evidence by {config.by}" if score(row) is None else "wrong"

    chosen = funnel.passed("pairs", left, [reason(row) for row in left])
    return [_pair(row, partner[id(row)], score, size, args) for row in chosen]


def scorer(config: PairsConfig) -> Callable[[Row], float | None]:
    """A sample's score by `pairs.by`; None without evidence."""
    if config.by == "verdict":
        return lambda row: {"correct": 1.0, "wrong": 0.0}.get(row["verdict"])
    # A verifier that could not judge the sample leaves no evidence of it, whatever another reward says.
    return lambda row: None if row["verdict"] in ("unknown", "error") else rules.read_score(row, config.by)


def nearest_pairs(
    better: list[Row],
    worse: list[Row],
    score: Callable[[Row], float | None],
    size: Callable[[Row], int],
    args: SelectConfig,
) -> list[tuple[Row, Row]]:
    """Pairs of comparable length, the nearest in length first, each sample in one of them; the first of equal ones."""
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
        if not used & {id(chosen), id(rejected)} and all(both_written(chosen, rejected, args)):
            used |= {id(chosen), id(rejected)}
            pairs.append((chosen, rejected))
    return pairs


def both_written(chosen: Row, rejected: Row, args: SelectConfig) -> tuple[str | None, str | None]:
    """Both sides with or without reasoning: the better one decides whether the query is simple."""
    return written(chosen["completion"], chosen, args), written(rejected["completion"], chosen, args)


def _pair(chosen: Row, rejected: Row, score: Any, size: dict[int, int], args: SelectConfig) -> Row:
    texts = both_written(chosen, rejected, args)
    short, long = sorted((size[id(chosen)], size[id(rejected)]))
    return (
        {
            "prompt": read_conversation(chosen["prompt"]),
            "chosen": [assistant(texts[0])],
            "rejected": [assistant(texts[1])],
            "margin": score(chosen) - score(rejected),
            "length_ratio": long / max(short, 1),
        }
        | {key: chosen.get(key) for key in PROMPT_LINEAGE}
        | {f"chosen_{key}": chosen.get(key) for key in SIDE_LINEAGE}
        | {f"rejected_{key}": rejected.get(key) for key in SIDE_LINEAGE}
    )
