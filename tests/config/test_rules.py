"""Values and combinations that each dataclass of a recipe refuses, by the key's place in the recipe."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pytest
from annotated_types import Ge

from open_r1.config.loading import build_config, load_recipe
from open_r1.config.schema import ContaminationConfig
from open_r1.errors import RecipeError
from open_r1.system.values import convert_value

PROBLEMS = {"path": "open_r1.tiny.problems:problems"}
GATE = {"against": ["tiny"]}


@pytest.mark.parametrize(
    ("task", "keys", "message"),
    [
        ("sft", {"contamination": {"against": []}}, "contamination.against: name at least one"),
        ("sft", {"contamination": GATE | {"ngram": 0}}, "contamination.ngram: a number of words"),
        ("sft", {"contamination": GATE | {"overlap": 2}}, "contamination.overlap: a share from 0 to 1, got 2"),
        ("sft", {"contamination": GATE | {"near": 1}}, "contamination.near: a similarity between 0 and 1"),
        ("sft", {"contamination": GATE | {"action": "keep"}}, "action: 'keep' is not one of fail, drop, waive"),
        ("sft", {"contamination": GATE | {"action": "waive"}}, "contamination.reason: say why"),
        ("sft", {"datasets": [PROBLEMS | {"weight": 0}]}, "datasets.0.weight: above 0; to leave a source out"),
        ("sft", {"datasets": [PROBLEMS | {"weight": 1}, PROBLEMS]}, "datasets: give a weight to every source"),
        ("sft", {"datasets": [PROBLEMS | {"weight": 1}] * 4}, "sum to 4, not to 1; in the same proportions: 0.25"),
        ("sft", {"datasets": [PROBLEMS | {"epochs": 2}]}, "datasets: epochs is a key of mix recipes"),
        ("sft", {"gpu_type": "H1000"}, "H1000"),
        ("grpo", {"max_error_share": -1}, "max_error_share: a share from 0 to 1, got -1"),
        ("grpo", {"evaluation": {"datasets": [PROBLEMS], "k": 0}}, "evaluation.k: 1 or more, got 0"),
        ("sample", {"sampling": {"stop": [""]}}, "sampling.stop: an empty text would end every completion"),
        ("sample", {"sampling": {"temperature": "nan"}}, "sampling.temperature"),
        ("sample", {"deduplicate": {"exact": False}}, "deduplicate.exact: neither"),
        ("sample", {"seed": 2**32}, "seed: a number from 0 to 4,294,967,295"),
        ("sample", {"parts": 0}, "parts: 1 or more"),
        ("sample", {"part": 0, "parts": 2, "overwrite": True}, "overwrite: each part would delete"),
        ("sample", {"streaming": True}, "streaming: sample always reads rows when they are needed"),
        ("select", {"output": "pair"}, "output: 'pair' is not one of messages, pairs"),
        ("select", {"reasoning": "auto", "no_reasoning": "none"}, "no_reasoning: 'none' is not one of plain"),
        ("select", {"pairs": {"by": "acuracy"}}, "pairs.by: 'acuracy' is neither `verdict` nor a reward of"),
        ("select", {"pairs": {"max_length_ratio": 0.5}}, "pairs.max_length_ratio: longer over shorter, so at least 1"),
        ("select", {"pairs": {"per_prompt": 0}}, "pairs.per_prompt: 1 or more"),
        ("select", {"examples": -1}, "examples: 0 or more"),
        ("select", {"curriculum": [0.5, 0.25]}, "curriculum: bounds between 0 and 1, each above"),
        ("select", {"curriculum": [0, 0.5]}, "curriculum: bounds between 0 and 1"),
        ("select", {"deduplicate": {"column": "chosen"}}, "deduplicate.column: 'chosen' is not one of prompt"),
        ("mix", {"rows": 0}, "rows: a number of rows, 1 or more"),
        ("mix", {"rows": 8}, "rows: without weights the size of the mixture follows"),
        ("mix", {"part": 0, "parts": 2}, "parts: a mix is one job"),
        ("mix", {"datasets": [PROBLEMS | {"epochs": 0}]}, "datasets.0.epochs: above 0, got 0"),
        ("mix", {"datasets": [PROBLEMS | {"rows": 4, "epochs": 2}]}, "datasets.0: rows and epochs both set how much"),
        ("mix", {"merge_adapter": True}, "merge_adapter: mix does not train a model"),
        ("evaluate", {"benchmarks": [{"name": "tiny", "verifier": "acuracy"}]}, "benchmarks.tiny.verifier: there is"),
        ("evaluate", {"benchmarks": [{"name": "tiny", "metrics": ["maj@9"], "k": 4}]}, "benchmarks.tiny.metrics: maj"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_place(write_recipe, task, keys, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(write_recipe(task, **keys), planned=True)


def test_a_key_for_all_benchmarks_replaces_theirs_before_the_rules_apply(write_recipe):
    listed = [{"name": "tiny", "k": 1, "metrics": ["maj@4"]}]
    assert load_recipe(write_recipe("evaluate", benchmarks=listed, k=4), planned=True).args.k == 4
    with pytest.raises(RecipeError, match=r"benchmarks\.tiny\.metrics: maj@4 needs 4"):
        load_recipe(write_recipe("evaluate", benchmarks=listed), planned=True)


def test_the_place_stands_in_front_of_a_rule():
    with pytest.raises(RecipeError, match=r"^a\.0\.against: "):
        build_config(ContaminationConfig, {}, "a.0")
    with pytest.raises(RecipeError, match=r"^against: "):
        build_config(ContaminationConfig, {})


@pytest.mark.parametrize(
    ("value", "hint", "converted"),
    [
        ("1e-6", float, 1e-6),
        ("x", list[str], ["x"]),
        ("x", list[str] | None, ["x"]),
        ("x", list[str] | str, "x"),
        (None, Annotated[int, Ge(1), "1 or more"] | None, None),
        ("a", Literal["a", "b"], "a"),
        ({"a": 1}, dict, {"a": 1}),
    ],
)
def test_values_become_the_type_of_their_annotation(value, hint, converted):
    assert convert_value(value, hint, "key") == converted


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (0, Annotated[int, Ge(1), "1 or more"] | None, "key: 1 or more, got 0"),
        ("x", Annotated[int, Ge(1), "1 or more"] | None, "key: expected int | None, got 'x'"),
        (True, int, "key: expected int, got True (true/false is not a number or a text)"),
        ("c", Literal["a", "b"], "key: 'c' is not one of a, b"),
    ],
)
def test_values_of_another_type_name_the_key(value, hint, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        convert_value(value, hint, "key")
