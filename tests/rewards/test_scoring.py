"""The adapter between scorers and TRL: what is withheld, what is counted, and what a recipe may compose."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import pickle
import sys
import threading
import types

import pytest

from open_r1.errors import RecipeError
from open_r1.rewards import registry, scoring
from open_r1.rewards.registry import RewardConfig
from open_r1.rewards.scoring import ScoredBatch, pick_gravest
from open_r1.rewards.verdict import Verdict

BOTH = [RewardConfig("accuracy"), RewardConfig("think_format")]
RIGHT, WRONG = "<think>a</think>2", "<think>a</think>3"


def call(functions, completions, **columns):
    """What TRL gets from the functions, and what they logged."""
    logged: dict = {"metrics": {}, "extra": {}}
    batch = columns | {"log_metric": logged["metrics"].__setitem__, "log_extra": logged["extra"].__setitem__}
    batch.setdefault("prompts", [""] * len(completions))
    return {f.__name__: f(completions=completions, **batch) for f in functions}, logged


@pytest.fixture
def own(monkeypatch):
    """`own(f, g)`: functions that a recipe can name as `own_rewards:f`."""
    module = types.ModuleType("own_rewards")
    monkeypatch.setitem(sys.modules, "own_rewards", module)

    def offer(*functions):
        for function in functions:
            setattr(module, function.__name__, function)

    return offer


def test_text_and_chat():
    texts = [RIGHT, "2", WRONG]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    expected = {"accuracy": [1.0, 1.0, 0.0], "think_format": [1.0, 0.0, 1.0]}
    for completions in (texts, chats):
        assert call(scoring.build_rewards(BOTH), completions, solution=["2"] * 3)[0] == expected


def test_no_evidence_withholds_every_reward_and_is_counted():
    functions = scoring.build_rewards(BOTH)
    scores, logged = call(functions, [RIGHT, RIGHT], solution=["2", ""])
    assert scores == {"accuracy": [1.0, None], "think_format": [1.0, None]}
    assert logged["metrics"] == {"verdict/unknown": 0.5, "verdict/error": 0.0}
    assert logged["extra"]["verdict"] == ["correct", "unknown: no gold answer"]
    assert functions[0].scored.drain_reasons() == {"unknown: no gold answer": 1}
    assert functions[0].scored.drain_reasons() == {}


def test_a_prompt_that_opened_the_reasoning():
    functions = scoring.build_rewards(BOTH, opens_think=True)
    assert call(functions, ["a</think>2", "a"], solution=["2", "2"])[0] == {
        "accuracy": [1.0, 0.0],
        "think_format": [1.0, 0.0],
    }


def test_ones_own_scorer_in_trls_form(own):
    def sharp_length(completion: str, prompt: str, sharp: float = 1.0, **kwargs: object) -> float | None:
        return None if completion == "?" else sharp * len(prompt)

    own(sharp_length)
    entries = [RewardConfig("own_rewards:sharp_length", parameters={"sharp": 2.0})]
    registry.check_rewards(entries)
    scores, _ = call(scoring.build_rewards(entries), ["x", "?"], prompts=["ab", "abc"])
    assert scores == {"sharp_length": [4.0, None]}


def test_an_entry_point_of_another_package(own, monkeypatch):
    def polite(completion: str) -> float:
        return float("please" in completion)

    own(polite)
    point = importlib.metadata.EntryPoint("polite", "own_rewards:polite", registry.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == point.group else [])
    assert call(scoring.build_rewards([RewardConfig("polite")]), ["please", "now"])[0] == {"polite": [1.0, 0.0]}


def test_a_scorer_that_raises_is_an_error_and_no_score(own):
    def fragile(completion: str) -> float:
        return 1.0 / len(completion)

    own(fragile)
    functions = scoring.build_rewards([RewardConfig("own_rewards:fragile"), RewardConfig("think_format")])
    scores, logged = call(functions, [RIGHT, ""])
    assert scores == {"fragile": [1 / len(RIGHT), None], "think_format": [1.0, None]}
    assert logged["metrics"]["verdict/error"] == 0.5
    assert logged["extra"]["verdict"][1].startswith("error: ZeroDivisionError in fragile (test_scoring.py:")


def test_too_many_errors_stop_the_run(own):
    def down(completion: str) -> Verdict:
        return Verdict("error", "the service is away") if completion == "x" else Verdict("correct")

    own(down)

    def scored(bad: int):
        functions = scoring.build_rewards([RewardConfig("own_rewards:down")], max_error_share=0.25)
        return call(functions, ["x"] * bad + ["y"] * (8 - bad))[0]["down"]

    assert scored(2) == [None, None] + [1.0] * 6
    with pytest.raises(RecipeError, match=r"3 of 8 completions.*max_error_share: 0.25.*3 times: the service is away"):
        scored(3)


def test_a_mistake_of_the_user_in_a_scorer_stops_at_once(own):
    def unset(completion: str) -> float:
        raise RecipeError("rewards: set JUDGE_KEY")

    own(unset)
    with pytest.raises(RecipeError, match="JUDGE_KEY"):
        call(scoring.build_rewards([RewardConfig("own_rewards:unset")]), ["x"])


def test_a_batch_is_scored_once(own):
    seen = []

    def watched(completion: str) -> float:
        seen.append(completion)
        return 1.0

    own(watched)
    call(scoring.build_rewards([RewardConfig("own_rewards:watched"), RewardConfig("think_format")]), ["x", "y"])
    assert sorted(seen) == ["x", "y"]


def test_scorers_that_wait_wait_side_by_side(own):
    together = threading.Barrier(8, timeout=20)  # breaks unless eight calls are under way at once

    def waits(completion: str) -> float:
        together.wait()
        return 1.0

    own(waits)
    assert call(scoring.build_rewards([RewardConfig("own_rewards:waits")]), list("abcdefgh"))[0]["waits"] == [1.0] * 8


def test_rewards_of_some_kinds_of_rows():
    entries = [RewardConfig("accuracy", kinds=["math"]), RewardConfig("think_format")]
    scores, logged = call(scoring.build_rewards(entries), [RIGHT, WRONG, "hello"], solution=["2", None, None],
                          kind=["math", "general", "general"])  # fmt: skip
    assert scores == {"accuracy": [1.0, None, None], "think_format": [1.0, 1.0, 0.0]}
    assert logged["extra"]["verdict"] == ["correct", "", ""]
    assert (
        registry.list_needed_columns(entries, "math") == ["solution"]
        and registry.list_needed_columns(entries, "general") == []
    )


def test_context_of_a_sample(own):
    def context_reader(completion: str, tokens: int, max_tokens: int, verdict: Verdict | None, prompt: str) -> float:
        assert verdict is not None and prompt == "what is it?"
        return tokens / max_tokens * (verdict.score or -1.0)

    own(context_reader)
    # Listed first, and still called after the verifier.
    entries = [RewardConfig("own_rewards:context_reader"), RewardConfig("accuracy")]
    question = [[{"role": "system", "content": "think"}, {"role": "user", "content": "what is it?"}]] * 2
    built = scoring.build_rewards(entries, max_tokens=4)
    scores, _ = call(built, [RIGHT, WRONG], prompts=question, solution=["2", "2"],
                     completion_ids=[[5], [5, 6]])  # fmt: skip
    assert scores["context_reader"] == [0.25, -0.5]


def test_a_batch_scorer_sees_groups(own):
    def longest_of_group(completions: list[str], tokens: list[int], group: list[int]) -> list[float]:
        most = {g: max(t for t, other in zip(tokens, group, strict=True) if other == g) for g in group}
        return [float(t == most[g]) for t, g in zip(tokens, group, strict=True)]

    own(longest_of_group)
    entries = [RewardConfig("own_rewards:longest_of_group")]
    assert registry.needs_context(entries, "group")
    scores, _ = call(scoring.build_rewards(entries), list("abcd"), prompts=["p", "p", "q", "q"],
                     completion_ids=[[1], [1, 2], [1, 2, 3, 4], [1, 2, 3]])  # fmt: skip
    assert scores["longest_of_group"] == [0.0, 1.0, 1.0, 0.0]


def test_a_scorer_class_is_made_once_with_its_parameters(own):
    made = []

    class Counted:
        def __init__(self, model: str, scale: float = 1.0):
            made.append(model)
            self.scale = scale

        def __call__(self, completions: list[str], prompt: list[str]) -> list[float]:
            return [self.scale * len(text) for text in completions]

    own(Counted)
    entries = [RewardConfig("own_rewards:Counted", parameters={"model": "m", "scale": 2.0})]
    registry.check_rewards(entries)
    functions = scoring.build_rewards(entries)
    call(functions, list("abcdefgh") * 8)
    assert [call(functions, ["ab"])[0]["Counted"], call(functions, ["abc"])[0]["Counted"]] == [[4.0], [6.0]]
    assert made == ["m"]
    with pytest.raises(RecipeError, match="needs `model`"):
        registry.check_rewards([RewardConfig("own_rewards:Counted")])


def test_a_rows_language_beats_the_default_and_the_recipe_beats_the_row(own):
    def spoken(completion: str, language: str = "en") -> float:
        return float({"en": False, "zh": True}[language])

    own(spoken)
    entry = RewardConfig("own_rewards:spoken")
    assert call(scoring.build_rewards([entry]), ["a", "b"], language=["zh", "en"])[0]["spoken"] == [1.0, 0.0]
    assert call(scoring.build_rewards([entry]), ["a", "b"], language=["zh", None])[0]["spoken"] == [1.0, 0.0]
    fixed = RewardConfig("own_rewards:spoken", parameters={"language": "zh"})
    assert call(scoring.build_rewards([fixed]), ["a", "b"], language=["zh", "en"])[0]["spoken"] == [1.0, 1.0]


def test_two_of_a_family_need_labels():
    twice = [RewardConfig("accuracy"), RewardConfig("accuracy", weight=0.5)]
    with pytest.raises(RecipeError, match=r"rewards.1: 'accuracy' is listed twice.*`label`"):
        registry.check_rewards(twice)
    twice[1].label = "accuracy_again"
    registry.check_rewards(twice)
    scores, _ = call(scoring.build_rewards(twice), [RIGHT], solution=["2"])
    assert scores == {"accuracy": [1.0], "accuracy_again": [1.0]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (RewardConfig("acuracy"), "did you mean 'accuracy'"),
        (RewardConfig("no_such_module:f"), "cannot be imported"),
        (RewardConfig("accuracy", parameters={"wieght": 2}), "did you mean 'weight'"),
        (RewardConfig("accuracy", second_opinion=1.5), "a share from 0 to 1"),
        (RewardConfig("think_format", second_opinion=0.1), "no second judge; these have: accuracy"),
    ],
)
def test_entries_that_cannot_work(entry, message):
    with pytest.raises(RecipeError, match=message):
        registry.check_rewards([entry])


def test_withheld_samples_are_kept_to_be_judged_again(tmp_path):
    functions = scoring.build_rewards(BOTH, records=tmp_path)
    state = types.SimpleNamespace(global_step=6)
    call(functions, [RIGHT, "half of a pair \ud800"], solution=["2", " "], trainer_state=state)
    (row,) = [json.loads(line) for line in (tmp_path / "withheld.jsonl").read_text().splitlines()]
    assert row == {
        "step": 7, "completion": "half of a pair \ud800", "solution": " ", "prompt": "",
        "verdict": "unknown", "reason": "no gold answer",
    }  # fmt: skip


def test_second_opinions_are_counted_where_they_differ(own, monkeypatch, tmp_path):
    def other(completion: str, solution: str) -> Verdict:
        return Verdict("wrong", "I see it otherwise") if completion.endswith("2") else Verdict("unknown")

    own(other)
    monkeypatch.setitem(registry.SECOND_OPINIONS, "accuracy", "own_rewards:other")
    functions = scoring.build_rewards([RewardConfig("accuracy", second_opinion=1.0)], records=tmp_path)
    scores, logged = call(functions, [RIGHT, WRONG, "1 + 1 is 2"], solution=["2", "2", "7"])
    assert scores["accuracy"] == [1.0, 0.0, 0.0], "a second opinion changes no reward"
    # Asked of all three; no opinion on one, agreed on one.
    assert logged["metrics"]["second_opinion/accuracy"] == 0.5
    (row,) = [json.loads(line) for line in (tmp_path / "second_opinions.jsonl").read_text().splitlines()]
    assert row["verdict"] == "correct" and row["second_opinion"] == "wrong: I see it otherwise"


def test_a_share_of_second_opinions_is_drawn_by_the_text(own, monkeypatch):
    asked = []

    def other(completion: str, solution: str) -> Verdict:
        asked.append(completion)
        return Verdict("correct")

    own(other)
    monkeypatch.setitem(registry.SECOND_OPINIONS, "accuracy", "own_rewards:other")
    texts = [f"<think>{i}</think>2" for i in range(400)]
    for _ in range(2):
        call(scoring.build_rewards([RewardConfig("accuracy", second_opinion=0.1)]), list(texts), solution=["2"] * 400)
    first, second = sorted(asked[: len(asked) // 2]), sorted(asked[len(asked) // 2 :])
    assert first == second and 20 <= len(first) <= 60


def test_rewards_can_be_sent_to_another_process():
    functions = pickle.loads(pickle.dumps(scoring.build_rewards(BOTH)))
    assert call(functions, [RIGHT], solution=["2"])[0]["accuracy"] == [1.0]


def test_the_gravest_verdict_decides():
    correct, wrong, unknown, error = (Verdict(outcome) for outcome in ("correct", "wrong", "unknown", "error"))
    assert [v.score for v in (correct, wrong, unknown, error)] == [1.0, 0.0, None, None]
    assert pick_gravest((correct, 0.5, wrong)) is wrong
    assert pick_gravest((wrong, unknown)) is unknown and pick_gravest((error, unknown)) is error
    assert pick_gravest((0.5, None)) is None


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(RecipeError, match="accuracy needs solution"):
        ScoredBatch(BOTH).results([RIGHT], {})


def test_a_rows_impossible_value_is_unknown_and_the_recipes_stops(own):
    def spoken(completion: str, language: str = "en") -> float:
        if language not in ("en", "zh"):
            raise RecipeError(f"language: {language!r} is not known")
        return 1.0

    own(spoken)
    scores, logged = call(
        scoring.build_rewards([RewardConfig("own_rewards:spoken")]), ["a", "b"], language=["zh", "klingon"]
    )
    assert scores["spoken"] == [1.0, None]
    assert logged["extra"]["verdict"][1] == "unknown: a value of the row: language: 'klingon' is not known"
    with pytest.raises(RecipeError, match="klingon"):
        entry = RewardConfig("own_rewards:spoken", parameters={"language": "klingon"})
        call(scoring.build_rewards([entry]), ["a"], language=["zh"])


def test_the_language_of_people_and_of_programs_are_two_columns():
    mixed = [RewardConfig("language_consistency"), RewardConfig("code")]
    program = "<think>we add them up</think>\n```js\nconsole.log(2)\n```"
    batch = {
        "prompt": ["Add them up, please."], "tests": [[{"input": "", "output": "2"}]], "language": ["en"],
        "programming_language": ["javascript"],
    }  # fmt: skip
    assert ScoredBatch(mixed).results([program], batch) == [[1.0], [Verdict("correct")]]


@pytest.mark.parametrize("result", [float("nan"), float("inf"), "high", [1.0]])
def test_what_is_no_number_is_no_reward(own, result):
    def odd(completion: str):
        return result

    own(odd)
    scores, logged = call(scoring.build_rewards([RewardConfig("own_rewards:odd")]), ["x"])
    assert scores["odd"] == [None] and logged["extra"]["verdict"][0].startswith("error: odd returned no number")


@pytest.mark.parametrize("result", [None, [1.0], 3])
def test_a_batch_scorer_that_returns_too_little(own, result):
    def short(completions: list[str]):
        return result

    own(short)
    assert call(scoring.build_rewards([RewardConfig("own_rewards:short")]), ["x", "y"])[0]["short"] == [None, None]


def test_all_processes_stop_together(own):
    def fine(completion: str) -> float:
        return 1.0

    own(fine)
    # This process's part is fine; another's is not.
    functions = scoring.build_rewards(
        [RewardConfig("own_rewards:fine")],
        max_error_share=0.25,
        gather=lambda mine: [*mine, (["the judge is gone"] * 3, 4)],
    )
    with pytest.raises(RecipeError, match=r"3 of 8 completions.*3 times: the judge is gone"):
        call(functions, list("abcd"))


def test_a_forked_child_scores_too():
    functions = scoring.build_rewards(BOTH)
    assert call(functions, [RIGHT], solution=["2"])[0]["accuracy"] == [1.0]
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        assert pool.apply_async(_score_in_child).get(timeout=60) == [1.0]


def _score_in_child():
    return call(scoring.build_rewards(BOTH), [RIGHT], solution=["2"])[0]["accuracy"]


def test_records_stay_small(own, tmp_path, monkeypatch):
    monkeypatch.setattr("open_r1.rewards.scoring.MOST_RECORDS", 500)
    for _ in range(20):
        call(scoring.build_rewards(BOTH, records=tmp_path), ["x" * 200], solution=[""])
    assert 500 < (tmp_path / "withheld.jsonl").stat().st_size < 1500
