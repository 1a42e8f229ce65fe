"""Every filter drops what it should, keeps what comes near it, and says why; wrong ones are refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_r1.errors import RecipeError
from open_r1.filters import registry
from open_r1.filters.registry import FilterConfig

EN = "We add the two numbers and then check that the sum is right by counting again. "
ZH = "我们先把两个数相加，然后再检查一遍结果是不是正确。"

FR = "Nous additionnons les deux nombres et nous vérifions ensuite que la somme est juste. "


def think(reasoning: str, answer: str = "\\boxed{4}") -> str:
    return f"<think>{reasoning}</think>\n{answer}"


def row(completion: str = think(EN), **columns) -> dict:
    made = {"prompt": "What is two plus two, and how do you know it?", "prompt_id": "p", "row": 0, "sample": 0}
    return made | {"completion": completion, "verdict": "correct", "reason": "", "scores": None} | columns


def step(name: str, **parameters) -> registry.Filter:
    entries = [FilterConfig(name, parameters=parameters)]
    registry.check_filters(entries, ["accuracy", "quality"])
    return registry.build_filters(entries)[0]


def reason(name: str, sample: dict, **parameters) -> str | None:
    return step(name, **parameters).reasons([sample])[0]


@pytest.mark.parametrize(
    ("name", "parameters", "sample", "expected"),
    [
        ("correct", {}, row(), None),
        ("correct", {}, row(verdict="wrong", reason="no final answer"), "wrong"),
        ("correct", {}, row(verdict="unknown", reason="no result: '1' against '2'"), "unknown: no result"),
        ("correct", {}, row(verdict="error", reason="KeyError in f (a.py:3): 'x'"), "error: KeyError in f (a.py:3)"),
        ("correct", {}, row(verdict=""), "not judged"),
        ("finished", {}, row(finish_reason="stop"), None),
        ("finished", {}, row(finish_reason="length"), "truncated"),
        ("finished", {}, row("<think>and so on"), "reasoning never closed"),
        ("finished", {}, row("no tags at all"), None),
        ("has_answer", {}, row(), None),
        ("has_answer", {}, row("<think>\\boxed{4}"), "no final answer"),
        ("has_answer", {}, row(think("\\boxed{4}", "")), "no final answer"),
        ("well_formed", {}, row(), None),
        ("well_formed", {}, row(think(EN) + "</think>"), "malformed tags"),
        ("well_formed", {}, row(EN), "malformed tags"),
        ("well_formed", {"format": "think_answer_format"}, row(), "malformed tags"),
        ("well_formed", {"format": "think_answer_format"}, row(think(EN, "<answer>4</answer>")), None),
        ("one_language", {}, row(think(EN * 5)), None),
        ("one_language", {}, row(think(EN * 5 + ZH)), "mixed scripts"),
        ("one_language", {}, row(think(EN * 5 + FR * 2)), "mixed languages"),
        ("one_language", {"min_share": 0.5}, row(think(EN * 5 + FR * 2)), None),
        ("one_language", {}, row(think(EN * 12 + "相加")), "mixed scripts"),
        ("one_language", {"min_script_share": 0.9}, row(think(EN * 12 + "相加")), None),
        ("one_language", {}, row(think(ZH * 9 + "Janet 养了鸭子。"), prompt="Janet 养了多少只鸭子？"), None),
        ("one_language", {}, row(think(ZH * 9 + "Then we count."), prompt="她养了多少只鸭子？"), "mixed scripts"),
        ("one_language", {}, row(think(ZH * 5)), "mixed scripts"),
        ("one_language", {}, row(think(ZH * 5), prompt="二加二等于多少？请说明理由。"), None),
        ("one_language", {}, row(think(ZH * 5), language="zh"), None),
        ("one_language", {}, row(think(EN * 5), language="zh"), "mixed languages"),
        ("one_language", {}, row(think(EN * 5), prompt="1 + 1", language="zh-CN"), "mixed scripts"),
        ("one_language", {}, row(think(EN * 5), prompt="$2+2$"), None),
        ("one_language", {}, row(think(EN * 3 + ZH * 3), prompt="$2+2$"), "mixed scripts"),
        ("one_language", {}, row(think("$2+2=4$")), None),
        ("one_language", {}, row(think(EN, ZH)), None),
        ("one_language", {}, row(language="klingon"), "unknown language"),
        ("short_paragraphs", {"max_words": 40}, row(think("one two " * 20)), None),
        ("short_paragraphs", {"max_words": 39}, row(think("one two " * 20)), "long paragraph"),
        ("short_paragraphs", {"max_words": 39}, row(think("one two " * 10 + "\n\n" + "one two " * 10)), None),
        ("short_paragraphs", {"max_words": 39}, row(think("one two " * 10 + "\n \n" + "one two " * 10)), None),
        ("short_paragraphs", {"max_words": 9}, row(think("one two " * 3 + "\n" + "one two " * 3)), "long paragraph"),
        ("short_paragraphs", {"max_words": 39}, row(think("one two", "one two " * 20)), None),
        ("short_paragraphs", {"max_words": 20}, row(think("相加" * 20)), None),
        ("short_paragraphs", {"max_words": 19}, row(think("相加" * 20)), "long paragraph"),
        ("no_code_in_reasoning", {}, row(think("```python\nprint(4)\n```")), "code in the reasoning"),
        ("no_code_in_reasoning", {}, row(think("so:\n  ~~~\nprint(4)\n  ~~~")), "code in the reasoning"),
        ("no_code_in_reasoning", {}, row(think("`print(4)` and 3 ~~~ 4")), None),
        ("no_code_in_reasoning", {}, row(think(EN, "```python\nprint(4)\n```")), None),
        ("little_repetition", {}, row(think(EN)), None),
        ("little_repetition", {}, row(think(EN * 2)), None),
        ("little_repetition", {}, row(think(EN * 3)), "repetition"),
        ("little_repetition", {"max_share": 0.9}, row(think(EN * 3)), None),
        ("length", {"min": 10, "max": 20}, row(tokens=10), None),
        ("length", {"min": 10, "max": 20}, row(tokens=20), None),
        ("length", {"min": 10, "max": 20}, row(tokens=9), "too short"),
        ("length", {"min": 10, "max": 20}, row(tokens=21), "too long"),
        ("length", {"max": 20}, row(tokens=0), None),
        ("length", {"max": 20}, row(tokens=None), "unknown length"),
        ("min_reward", {"reward": "quality", "min": 0.7}, row(scores={"quality": 0.7}), None),
        ("min_reward", {"reward": "quality", "min": 0.7}, row(scores={"quality": 0.69}), "quality too low"),
        ("min_reward", {"reward": "quality", "min": 0.7}, row(scores={"quality": None}), "no quality score"),
        ("min_reward", {"reward": "quality", "min": 0.7}, row(scores=None), "no quality score"),
        ("pass_rate", {}, row(pass_rate=0.0), "never solved"),
        ("pass_rate", {}, row(pass_rate=1.0), "always solved"),
        ("pass_rate", {}, row(pass_rate=1 / 64), None),
        ("pass_rate", {}, row(pass_rate=63 / 64), None),
        ("pass_rate", {}, row(pass_rate=None), "no judged sample"),
        ("pass_rate", {"min": 0, "max": 1}, row(pass_rate=0.0), None),
        ("pass_rate", {"min": 0, "max": 1}, row(pass_rate=1.0), None),
        ("pass_rate", {"min": 0, "max": 1}, row(pass_rate=None), "no judged sample"),
        ("pass_rate", {"min": 0.25, "max": 0.75}, row(pass_rate=0.25), None),
        ("pass_rate", {"min": 0.25, "max": 0.75}, row(pass_rate=0.75), None),
        ("pass_rate", {"min": 0.25, "max": 0.75}, row(pass_rate=0.2), "too seldom solved"),
        ("pass_rate", {"min": 0.25, "max": 0.75}, row(pass_rate=0.8), "too often solved"),
    ],
)  # fmt: skip
def test_what_a_filter_says_of_a_sample(name, parameters, sample, expected):
    assert reason(name, sample, **parameters) == expected


def answers(*values: str | None) -> list[dict]:
    texts = ["<think>" if value is None else think(EN, f"\\boxed{{{value}}}") for value in values]
    return [row(text, sample=k) for k, text in enumerate(texts)]


def scored(*scores: float | None) -> list[dict]:
    return [row(sample=k, scores={"quality": score}) for k, score in enumerate(scores)]


def long(*tokens: int | None) -> list[dict]:
    return [row("x" * (10 * k + 1), sample=k, tokens=count) for k, count in enumerate(tokens)]


@pytest.mark.parametrize(
    ("name", "parameters", "samples", "kept"),
    [
        ("majority", {}, answers("0.5", "3", "\\frac12", None), [0, 2]),
        ("majority", {}, answers("3", "4", "4", "3"), [0, 3]),
        ("majority", {}, answers("4", "3", "3", "4"), [0, 3]),
        ("majority", {}, answers(None, None), []),
        ("majority", {"min_share": 0.5}, answers("3", "3", "4", "5"), [0, 1]),
        ("majority", {"min_share": 0.51}, answers("3", "3", "4", "5"), []),
        ("distinct", {}, [row("a b"), row("a  b\n"), row("a c"), row("A b")], [0, 2, 3]),
        ("best", {"k": 2, "by": "quality"}, scored(0.1, 0.9, None, 0.9, 0.5), [1, 3]),
        ("best", {"k": 2, "by": "quality"}, scored(0.9, 0.5, 0.5, 0.5), [0, 1]),
        ("best", {"k": 9, "by": "quality"}, scored(0.1, None), [0]),
        ("best", {"by": "shortest"}, long(7, 5, 9, 5), [1]),
        ("best", {"by": "longest"}, long(7, 9, 9, 5), [1]),
        ("best", {"by": "longest"}, long(9, 5, None), [2]),  # by characters
        ("best", {"k": 3, "by": "spread"}, long(50, 10, 40, 20, 30), [0, 1, 4]),
        ("best", {"k": 2, "by": "spread"}, long(50, 10, 40, 20, 30), [0, 1]),
        ("best", {"k": 1, "by": "spread"}, long(50, 10, 40, 20, 30), [4]),
        ("best", {"k": 5, "by": "spread"}, long(1, 2), [0, 1]),
    ],
)
def test_which_samples_of_a_prompt_are_kept(name, parameters, samples, kept):
    reasons = step(name, **parameters).reasons(samples)
    assert [i for i, reason in enumerate(reasons) if reason is None] == kept
    assert step(name, **parameters).reasons(samples) == reasons


@given(tokens=st.lists(st.integers(0, 50), min_size=1, max_size=20), k=st.integers(1, 25))
def test_spread_keeps_k_different_samples_with_both_ends(tokens, k):
    reasons = step("best", k=k, by="spread").reasons([row(sample=i, tokens=t) for i, t in enumerate(tokens)])
    kept = [tokens[i] for i, reason in enumerate(reasons) if reason is None]
    assert len(kept) == min(k, len(tokens))
    assert k == 1 or {min(tokens), max(tokens)} <= set(kept)


def test_why_samples_are_outvoted_or_have_no_score():
    assert step("majority").reasons(answers("3", "3", "4", None)) == [None, None, "outvoted", "no final answer"]
    reasons = step("best", k=1, by="quality").reasons(scored(0.1, 0.9, None))
    assert reasons == ["not among the best 1", None, "no quality score"]


def test_kinds_limit_a_filter_to_some_rows():
    entry = FilterConfig("no_code_in_reasoning", kinds=["math"])
    code = think("```\n4\n```")
    rows = [row(code, kind="math"), row(code, kind="code"), row(code)]
    assert registry.build_filters([entry])[0].reasons(rows) == ["code in the reasoning", None, None]
    best = FilterConfig("best", kinds=["math"], parameters={"by": "shortest"})
    rows = [row(kind="code", tokens=1), row(kind="math", tokens=3), row(kind="math", tokens=2)]
    assert registry.build_filters([best])[0].reasons(rows) == [None, "not among the best 1", None]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (FilterConfig("corect"), "did you mean 'correct'?"),
        (FilterConfig("zzz"), "known: correct, finished"),
        (FilterConfig("no.such.module:keep"), "cannot be imported"),
        (FilterConfig("open_r1.filters.rules:nothing"), "cannot be imported"),
        (
            FilterConfig("open_r1.filters.rules:count_words"),
            "the first argument of a filter is `completion` or `samples`",
        ),
        (FilterConfig("short_paragraphs", parameters={"max_word": 3}), "did you mean 'max_words'?"),
        (FilterConfig("correct", parameters={"strict": True}), "correct has no parameter 'strict'; it has none"),
        (FilterConfig("short_paragraphs", parameters={"max_words": "many"}), "max_words: expected int, got 'many'"),
        (FilterConfig("short_paragraphs", parameters={"max_words": True}), "true/false is not a number"),
        (FilterConfig("short_paragraphs", parameters={"max_words": 0}), "1 or more, got 0"),
        (
            FilterConfig("well_formed", parameters={"format": "xml"}),
            "'xml' is not one of think_format, think_answer_format",
        ),
        (FilterConfig("one_language", parameters={"min_share": 95}), "a share from 0 to 1, got 95"),
        (FilterConfig("little_repetition", parameters={"ngram": 0}), "ngram: a number of words"),
        (FilterConfig("length"), "set `min`, `max` or both"),
        (FilterConfig("length", parameters={"min": 3, "max": 2}), "no sample would remain"),
        (FilterConfig("min_reward", parameters={"min": 1}), "min_reward needs `reward`"),
        (FilterConfig("min_reward", parameters={"reward": "qualty", "min": 1}), "did you mean 'quality'?"),
        (FilterConfig("pass_rate", parameters={"max": 75}), "max: a share from 0 to 1, got 75"),
        (FilterConfig("pass_rate", parameters={"min": 0.5, "max": 0.2}), "no sample would remain"),
        (FilterConfig("best"), "best needs `by`"),
        (FilterConfig("best", parameters={"by": "shortst"}), "did you mean 'shortest'?"),
        (FilterConfig("best", parameters={"by": "shortest", "k": 0}), "1 or more, got 0"),
        (FilterConfig("correct", label="selected"), "give this one another `label`"),
    ],
)
def test_a_wrong_filter_is_refused_with_what_to_do(entry, told):
    with pytest.raises(RecipeError, match="filters") as error:
        registry.check_filters([entry], ["accuracy", "quality"])
    assert told in str(error.value)


def test_the_same_filter_twice_needs_a_label():
    first, second = FilterConfig("length", parameters={"max": 9}), FilterConfig("length", parameters={"min": 2})
    with pytest.raises(RecipeError, match=r"filters\.1: 'length' is listed twice"):
        registry.check_filters([first, second], [])
    second.label = "not_short"
    registry.check_filters([first, second], [])
    assert [built.name for built in registry.build_filters([first, second])] == ["length", "not_short"]


def test_every_filter_of_the_table_is_there_and_tells_its_kind():
    for name, path in registry.FILTERS.items():
        assert path.endswith(f":{name}") and registry.find_filter(name).__doc__


def crashes(completion: str, solution: str, *, least: int = 1) -> str | None:
    return None if len(solution) >= least else "empty"


def too_few(samples: list[dict]) -> list[str | None]:
    return [None]


def test_ones_own_filter_is_called_with_columns_and_stops_the_run_where_it_fails():
    own = registry.build_filters([FilterConfig(f"{__name__}:crashes", label="own", parameters={"least": "2"})])[0]
    assert own.columns == ("solution",) and own.reasons([row(solution="ab"), row(solution="a")]) == [None, "empty"]
    with pytest.raises(RecipeError, match="own failed on prompt p, sample 3: TypeError"):
        own.reasons([row(solution="ab"), row(solution=None, sample=3)])
    group = registry.build_filters([FilterConfig(f"{__name__}:too_few")])[0]
    with pytest.raises(RecipeError, match=r"too_few failed .* 1 reasons for 2 samples"):
        group.reasons([row(), row()])


PIECES = [*"ab 4\n`~$\\{}相加", "<think>", "</think>", "\\boxed{"]
WILD = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
SAMPLE = st.builds(
    row,
    WILD,
    prompt=WILD,
    verdict=st.sampled_from(["correct", "wrong", "unknown", "error", ""]),
    tokens=st.none() | st.integers(0, 9),
    scores=st.none() | st.fixed_dictionaries({"quality": st.none() | st.floats(0, 1)}),
    finish_reason=st.sampled_from([None, "stop", "length"]),
    pass_rate=st.just(0.5),
)
ALL = [step(name, **{"best": {"by": "quality"}, "length": {"max": 5}}.get(name, {})) for name in registry.FILTERS
       if name != "min_reward"] + [step("min_reward", reward="quality", min=0.5)]  # fmt: skip


@given(samples=st.lists(SAMPLE, max_size=6))
def test_filters_are_total_and_give_every_sample_its_reason(samples):
    for each in ALL:
        reasons = each.reasons(samples)
        assert len(reasons) == len(samples)
        assert all(reason is None or (isinstance(reason, str) and reason) for reason in reasons)
