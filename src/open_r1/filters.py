"""The steps of a selection: small functions by name, each with its parameters in the recipe.

The first argument tells the two kinds apart. `completion` begins a row filter,
`f(completion, <columns>, *, <parameters>) -> str | None`: None keeps the sample, a text says why it goes. `samples`
begins a group filter, `f(samples, *, <parameters>) -> list[str | None]`: it is given all samples of one prompt that
are left, ordered by (sample, row), and says the same of each. Columns without a default must be in the data;
keyword-only arguments are parameters, and those without a default must be given.

A reason is counted, so it names the cause and not the case. Nothing here imports torch or datasets.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import typing
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

from .errors import RecipeError, nearest
from .rewards import repetition
from .rewards.format import reasoning, think_answer_format, think_format
from .rewards.language import LANGUAGES, language_share, prompt_language
from .rewards.math import final_answer, vote_key

if TYPE_CHECKING:
    from .configs import FilterConfig

Row = dict[str, Any]

# name -> where its function is.
FILTERS: dict[str, str] = {
    "correct": "open_r1.filters:correct",
    "finished": "open_r1.filters:finished",
    "has_answer": "open_r1.filters:has_answer",
    "well_formed": "open_r1.filters:well_formed",
    "one_language": "open_r1.filters:one_language",
    "short_paragraphs": "open_r1.filters:short_paragraphs",
    "no_code_in_reasoning": "open_r1.filters:no_code_in_reasoning",
    "little_repetition": "open_r1.filters:little_repetition",
    "length": "open_r1.filters:length",
    "min_reward": "open_r1.filters:min_reward",
    "pass_rate": "open_r1.filters:pass_rate",
    "majority": "open_r1.filters:majority",
    "distinct": "open_r1.filters:distinct",
    "best": "open_r1.filters:best",
}
# Steps that the selection itself takes, before and after the filters.
OWN_STEPS = ("sampled", "judged", "reasoning", "deduplicate", "selected", "pairs")
_ENTRY_KEYS = ("name", "label", "kinds")

_FENCE = re.compile(r"```|^[ \t]*~~~", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class Filter:
    """One step, ready to be called.

    Args:
        name: in the funnel.
        kinds: of the rows it applies to; None for all.
        call: the function with its parameters filled in.
        columns: of a row, that a row filter is called with after the completion.
        optional: those of them that the data need not have.
        group: it is called with all samples of a prompt.
    """

    name: str
    kinds: tuple[str, ...] | None
    call: Callable[..., Any]
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    group: bool

    def reasons(self, samples: list[Row]) -> list[str | None]:
        """Why each of a prompt's samples goes; None where it stays, or is of another kind.

        Raises:
            RecipeError: the function failed, or did not answer for every sample; names the first of them.
        """
        if self.kinds is None:
            return self._checked(samples)
        of_kind = [row.get("kind") in self.kinds for row in samples]
        found = iter(self._checked([row for row, mine in zip(samples, of_kind, strict=True) if mine]))
        return [next(found) if mine else None for mine in of_kind]

    def _checked(self, samples: list[Row]) -> list[str | None]:
        reasons = self._called(samples)
        for row, reason in zip(samples, reasons, strict=True):
            # A filter that answers True for "keep it" would drop everything.
            if reason is not None and not (isinstance(reason, str) and reason):
                raise RecipeError(
                    f"filters: {self.name} gave {reason!r} for prompt {row['prompt_id']}, sample {row['sample']}; a "
                    "filter returns None to keep a sample, or a text that says why it goes"
                )
        return reasons

    def _called(self, samples: list[Row]) -> list[str | None]:
        if not samples:
            return []
        row = samples[0]
        try:
            if self.group:
                reasons = list(self.call(samples))
                if len(reasons) == len(samples):
                    return reasons
                problem = f"it gave {len(reasons)} reasons for {len(samples)} samples"
            else:
                reasons = []
                for row in samples:
                    values = [_text(row["prompt"]) if name == "prompt" else row.get(name) for name in self.columns]
                    reasons.append(self.call(row["completion"], *values))
                return reasons
        except RecipeError:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        raise RecipeError(
            f"filters: {self.name} failed on prompt {row['prompt_id']}, sample {row['sample']}: {problem}"
        )


def _text(prompt: str | list[Row]) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def step_name(entry: FilterConfig) -> str:
    return entry.label or entry.name.rpartition(":")[2]


def find(name: str) -> Callable[..., Any]:
    """The function of a name in `FILTERS`, or of `package.module:function`.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    if ":" not in name and name not in FILTERS:
        raise RecipeError(f"filters: there is no filter named {name!r}{nearest(name, list(FILTERS))}")
    module, _, function = FILTERS.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"filters: {name} cannot be imported ({error})") from error


def check(entries: list[FilterConfig], metrics: list[str] | None) -> None:
    """Refuse unknown names, two steps of one name, and wrong, unknown or missing parameters.

    Args:
        entries: of the recipe.
        metrics: names of its rewards; None if the samples were judged before, and their scores are not known yet.

    Raises:
        RecipeError: naming the entry and what to do.
    """
    names = [step_name(entry) for entry in entries]
    for i, entry in enumerate(entries):
        if names[i] in OWN_STEPS:
            raise RecipeError(f"filters.{i}: {names[i]!r} is a step of every selection; give this one another `label`")
        if names.index(names[i]) != i:
            raise RecipeError(f"filters.{i}: {names[i]!r} is listed twice, and is counted by name; give one a `label`")
        function = find(entry.name)
        given = _checked_parameters(function, entry, f"filters.{i}: {entry.name}")
        if hasattr(function, "check"):  # values that only the filter can refuse
            try:
                function.check(metrics, **given)
            except RecipeError as error:
                raise RecipeError(f"filters.{i}: {entry.name}: {error}") from error


def build(entries: list[FilterConfig]) -> list[Filter]:
    """The steps of entries that `check` has let pass."""
    return [_built(entry, find(entry.name)) for entry in entries]


def _built(entry: FilterConfig, function: Callable[..., Any]) -> Filter:
    first, *others = inspect.signature(function).parameters.values()
    columns = [a for a in others if a.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return Filter(
        name=step_name(entry),
        kinds=None if entry.kinds is None else tuple(entry.kinds),
        call=partial(function, **_checked_parameters(function, entry, f"filters: {entry.name}")),
        columns=tuple(a.name for a in columns),
        optional=tuple(a.name for a in columns if a.default is not inspect.Parameter.empty),
        group=first.name == "samples",
    )


def _checked_parameters(function: Callable[..., Any], entry: FilterConfig, at: str) -> dict[str, Any]:
    """The entry's parameters in the types that the function declares."""
    arguments = list(inspect.signature(function).parameters.values())
    if not arguments or arguments[0].name not in ("completion", "samples"):
        raise RecipeError(f"{at}: the first argument of a filter is `completion` or `samples`")
    known = {a.name: a for a in arguments if a.kind is inspect.Parameter.KEYWORD_ONLY}
    for key in entry.parameters:
        if key not in known:
            hint = nearest(key, [*known, *_ENTRY_KEYS]) if known else "; it has none"
            if key in [a.name for a in arguments]:
                hint = f": it is no keyword argument; write `def {function.__name__}({arguments[0].name}, *, {key})`"
            raise RecipeError(f"{at} has no parameter {key!r}{hint}")
    for key, argument in known.items():
        if argument.default is inspect.Parameter.empty and key not in entry.parameters:
            raise RecipeError(f"{at} needs `{key}`")
    hints = typing.get_type_hints(function)
    return {key: _typed(value, hints.get(key, Any), f"{at}: {key}") for key, value in entry.parameters.items()}


def _typed(value: Any, hint: Any, at: str) -> Any:
    """A YAML value as the type of its parameter (YAML reads `1e-6` as a text)."""
    from pydantic import TypeAdapter, ValidationError

    # A number is never meant by true/false.
    if isinstance(value, bool) and hint is not Any and bool not in (hint, *typing.get_args(hint)):
        raise RecipeError(f"{at}: true/false is not a number or a text")
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise RecipeError(f"{at}: got {value!r}; {error.errors()[0]['msg'].lower()}") from None


def words(text: str) -> list[str]:
    """Words by white space; in scripts without spaces two characters are one, as for the repetition reward."""
    return repetition.WORD.findall(text)


def score(row: Row, metric: str) -> float | None:
    """A sample's score by a reward; None if it has none."""
    return (row.get("scores") or {}).get(metric)


def cause(reason: str) -> str:
    """What a verdict's reason begins with: it names the cause first and, after a colon, the case."""
    return reason.split(": ")[0]


def lengths(samples: list[Row]) -> list[int]:
    """Tokens of each sample; characters of all if the tokens of one are not known."""
    tokens = [row.get("tokens") for row in samples]
    return [len(row["completion"]) for row in samples] if None in tokens else tokens


def correct(completion: str, verdict: str, reason: str) -> str | None:
    """Only what was judged correct; what could not be judged goes as well, but not as wrong."""
    if verdict in ("correct", "wrong"):
        return None if verdict == "correct" else "wrong"
    return f"{verdict}: {cause(reason)}" if verdict else "not judged"


def finished(completion: str, finish_reason: str | None = None) -> str | None:
    """Not cut off at the length limit, and without a `<think>` that is never closed."""
    if finish_reason == "length":
        return "truncated"
    return "reasoning never closed" if "<think>" in completion and "</think>" not in completion else None


def has_answer(completion: str) -> str | None:
    """A final answer can be read from it, as the accuracy reward reads it."""
    return None if final_answer(completion) else "no final answer"


def well_formed(
    completion: str, *, format: Literal["think_format", "think_answer_format"] = "think_format"
) -> str | None:
    """The tags are all there, in order, with text in them, by that format reward."""
    judge = {"think_format": think_format, "think_answer_format": think_answer_format}[format]
    return None if judge(completion) == 1.0 else "malformed tags"


def one_language(
    completion: str,
    prompt: str,
    language: str | None = None,
    *,
    min_share: float = 0.9,
    min_script_share: float = 0.998,
) -> str | None:
    """The reasoning is in one language: the row's `language`, or else the prompt's.

    For a prompt without words it is the one that most of the reasoning is in. Reasoning without words is in no other
    language. Foreign scripts are counted exactly; languages of one script are told apart by an estimate that takes up
    to a tenth of an English chain full of names for something else.

    Args:
        completion: the whole completion.
        prompt: the question.
        language: of the row.
        min_share: of the words, that are of the language.
        min_script_share: of the words, that are of its script, where the prompt has no other.
    """
    target = language or prompt_language(prompt) or prompt_language(reasoning(completion))
    if target is None:
        return None
    try:
        script = counted_as(target)
        of_script = language_share(completion, script)
        if of_script is None:
            return None
        if of_script < min_script_share and _only(prompt, script):
            return "mixed scripts"
        share = of_script if script == target else language_share(completion, target)
    except RecipeError:  # the row's own mistake
        return "unknown language"
    return None if share >= min_share else "mixed languages"


@lru_cache(maxsize=4096)
def _only(text: str, script: str) -> bool:
    """True if all words of a text, if any, are of one script."""
    return language_share(text, script) in (None, 1.0)


def counted_as(language: str) -> str:
    """What tells words of a language apart without an estimate: its script, or itself if it shares it with none.

    Raises:
        RecipeError: a language that is not known.
    """
    code = re.split("[-_]", language.lower())[0]
    script = next((script for script, languages in LANGUAGES.items() if code == script or code in languages), None)
    if script is None:
        raise RecipeError(f"language: {language!r} is not known")
    # Chinese and Japanese are told apart by the kana.
    return code if script == "cjk" or len(LANGUAGES[script]) == 1 else script


def short_paragraphs(completion: str, *, max_words: int = 300) -> str | None:
    """No paragraph of the reasoning, between blank lines, is longer."""
    paragraphs = _BLANK_LINE.split(reasoning(completion).replace("<think>", " "))
    # Most are too short to need counting: a word has at least one character.
    long = any(len(paragraph) > max_words and len(words(paragraph)) > max_words for paragraph in paragraphs)
    return "long paragraph" if long else None


def no_code_in_reasoning(completion: str) -> str | None:
    """No fenced code block in the reasoning; the answer may have one."""
    return "code in the reasoning" if _FENCE.search(reasoning(completion)) else None


def little_repetition(completion: str, *, max_share: float = 0.5, ngram: int = 3) -> str | None:
    """At most this share of the n-grams of words has occurred before."""
    share = repetition.repetition(completion, ngram=ngram, max_penalty=-1.0)
    return "repetition" if -share > max_share else None


def length(completion: str, tokens: int | None, *, min: int | None = None, max: int | None = None) -> str | None:
    """Between these numbers of tokens, bounds included."""
    if tokens is None:
        return "unknown length"
    if min is not None and tokens < min:
        return "too short"
    return "too long" if max is not None and tokens > max else None


def min_reward(completion: str, scores: dict[str, float | None] | None, *, reward: str, min: float) -> str | None:
    """A reward of the recipe is at least this; without a score of it there is no evidence, and the sample goes."""
    found = (scores or {}).get(reward)
    if found is None:
        return f"no {reward} score"
    return None if found >= min else f"{reward} too low"


def pass_rate(samples: list[Row], *, min: float | None = None, max: float | None = None) -> list[str | None]:
    """Prompts whose share of right samples lies between the bounds, which are included.

    The share is right / (right + wrong) over all samples that were drawn, whatever filters came before; samples
    without a verdict are no evidence. Without a bound, prompts that are never, or always, solved go (DAPO's dynamic
    sampling, arXiv 2503.14476, eq. 11).
    """
    rate = samples[0]["pass_rate"]
    if rate is None:
        reason = "no judged sample"
    elif rate == 0 and min is None:
        reason = "never solved"
    elif rate == 1 and max is None:
        reason = "always solved"
    elif min is not None and rate < min:
        reason = "too seldom solved"
    elif max is not None and rate > max:
        reason = "too often solved"
    else:
        reason = None
    return [reason] * len(samples)


def majority(samples: list[Row], *, min_share: float = 0.0) -> list[str | None]:
    """Samples whose final answer is that of most; of two answers as frequent, the one that was given first.

    Args:
        samples: those that are left vote.
        min_share: of the votes, that the answer must have.
    """
    answers = [final_answer(row["completion"]) for row in samples]
    keys = [vote_key(answer) if answer else None for answer in answers]
    votes = Counter(key for key in keys if key is not None)
    if not votes:
        return ["no final answer"] * len(samples)
    winner, most = votes.most_common(1)[0]  # ties in the order in which they were first met
    if most < min_share * votes.total():
        return ["no majority" if key is not None else "no final answer" for key in keys]
    return [None if key == winner else "no final answer" if key is None else "outvoted" for key in keys]


def distinct(samples: list[Row]) -> list[str | None]:
    """The first of completions that differ in white space only."""
    seen: set[str] = set()
    reasons: list[str | None] = []
    for row in samples:
        text = " ".join(row["completion"].split())
        reasons.append("repeats an earlier sample" if text in seen else None)
        seen.add(text)
    return reasons


def best(samples: list[Row], *, k: int = 1, by: str) -> list[str | None]:
    """The k best samples of a prompt; of equal ones the first.

    Args:
        samples: those that are left.
        k: how many stay.
        by: a reward of the recipe; `shortest` or `longest`; or `spread`, evenly over the lengths, both ends included.
    """
    reasons: list[str | None] = [f"not among the best {k}"] * len(samples)
    for i in _best(samples, k, by):
        reasons[i] = None
    if by not in LENGTHS:
        for i, row in enumerate(samples):
            reasons[i] = f"no {by} score" if score(row, by) is None else reasons[i]
    return reasons


LENGTHS = ("shortest", "longest", "spread")


def _best(samples: list[Row], k: int, by: str) -> list[int]:
    """Positions of the k best."""
    if by not in LENGTHS:
        scores = {i: found for i, row in enumerate(samples) if (found := score(row, by)) is not None}
        return sorted(scores, key=lambda i: -scores[i])[:k]
    size = lengths(samples)
    ordered = sorted(range(len(samples)), key=lambda i: -size[i] if by == "longest" else size[i])
    if by != "spread" or k >= len(ordered):
        return ordered[:k]
    if k == 1:
        return [ordered[(len(ordered) - 1) // 2]]
    # Steps of at least one, so that no position is taken twice.
    return [ordered[round(j * (len(ordered) - 1) / (k - 1))] for j in range(k)]


def _check_shares(metrics: list[str] | None, **given: Any) -> None:
    for key, value in given.items():
        if key.endswith("share") and not 0 <= value <= 1:
            raise RecipeError(f"{key}: a share from 0 to 1, got {value:g}")
    if given.get("ngram", 1) < 1:
        raise RecipeError(f"ngram: a number of words, 1 or more, got {given['ngram']}")


def _check_bounds(metrics: list[str] | None, **given: Any) -> None:
    low, high = given.get("min"), given.get("max")
    if low is not None and high is not None and low > high:
        raise RecipeError(f"min: {low:g} is above max: {high:g}, and nothing would be left")


def _check_length(metrics: list[str] | None, **given: Any) -> None:
    if given.get("min") is None and given.get("max") is None:
        raise RecipeError("give it `min`, `max` or both, in tokens")
    _check_bounds(metrics, **given)


def _check_pass_rate(metrics: list[str] | None, **given: Any) -> None:
    for key in ("min", "max"):
        if given.get(key) is not None and not 0 <= given[key] <= 1:
            raise RecipeError(f"{key}: a share from 0 to 1, got {given[key]:g}")
    _check_bounds(metrics, **given)


def _check_min_reward(metrics: list[str] | None, *, reward: str, min: float) -> None:
    if not math.isfinite(min):
        raise RecipeError(f"min: a number, got {min}")
    if metrics is not None and reward not in metrics:
        raise RecipeError(f"reward: {reward!r} is no reward of this recipe{nearest(reward, metrics)}")


def _check_best(metrics: list[str] | None, *, by: str, k: int = 1) -> None:
    if k < 1:
        raise RecipeError(f"k: a number of samples, 1 or more, got {k}")
    if metrics is not None and by not in (*LENGTHS, *metrics):
        raise RecipeError(f"by: {by!r} is no reward of this recipe{nearest(by, [*LENGTHS, *metrics])}")


def _check_max_words(metrics: list[str] | None, *, max_words: int = 1) -> None:
    if max_words < 1:
        raise RecipeError(f"max_words: 1 or more, got {max_words}")


one_language.check = majority.check = little_repetition.check = _check_shares  # type: ignore[attr-defined]
short_paragraphs.check = _check_max_words  # type: ignore[attr-defined]
length.check = _check_length  # type: ignore[attr-defined]
min_reward.check = _check_min_reward  # type: ignore[attr-defined]
pass_rate.check = _check_pass_rate  # type: ignore[attr-defined]
best.check = _check_best  # type: ignore[attr-defined]
