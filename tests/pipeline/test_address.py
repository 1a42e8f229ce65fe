"""What changes the address of a stage, and what does not."""

from __future__ import annotations

import importlib
import json

import pytest

from open_r1.configs import resolve
from open_r1.pipeline import address


@pytest.fixture
def digest(write_recipe):
    def do(task: str = "select", **keys: object) -> str:
        path = write_recipe(task, **keys)
        return address.of(*resolve(path, {}))["digest"]

    return do


def test_keys_of_the_recipe_change_it_but_not_where_and_how_it_is_shown(digest):
    first = digest()
    assert digest() == first and len(first) == 12
    assert digest(output_dir="elsewhere") == first and digest(overwrite=True) == first
    assert digest(seed=1) != first and digest(filters=[{"name": "finished"}]) != first
    sampled = digest("sample", engine={"name": "transformers"})
    assert digest("sample", engine={"name": "transformers", "batch_size": 3}) == sampled
    assert digest("sample", sampling={"n": 3, "max_tokens": 8}, engine={"name": "transformers"}) != sampled


def test_another_file_or_model_is_another_address(digest, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    first = digest(datasets=[str(rows)])
    rows.write_text(json.dumps({"prompt": "a", "completion": "c"}) + "\n")
    second = digest(datasets=[str(rows)])
    assert second != first
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "one.jsonl").write_text("1")
    third = digest(datasets=[str(folder)])
    (folder / "two.jsonl").write_text("1")
    assert digest(datasets=[str(folder)]) != third
    gated = digest(contamination={"against": [{"path": str(rows)}]})
    rows.write_text(json.dumps({"prompt": "d"}) + "\n")
    assert digest(contamination={"against": [{"path": str(rows)}]}) != gated


def test_a_large_file_is_known_by_its_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(address, "WHOLE", 10)
    monkeypatch.setattr(address, "END", 4)
    file = tmp_path / "weights"
    told = []
    for content in (b"aaaabbbbcccc", b"aaaabbbbcccd", b"aaaabbbbbcccc", b"xaaabbbbcccc"):
        file.write_bytes(content)
        told.append(address.content(file))
    assert len(set(told)) == 4


BODY = '''
"""A judge."""
from open_r1.rewards import CORRECT

def judge(completion, solution):
    """Says yes."""
    return CORRECT
'''


@pytest.mark.parametrize(
    "changed, same",
    [
        (BODY.replace("A judge", "Another text").replace("Says yes", "Says yes, always"), True),
        (BODY + "\n# a comment\n", True),
        (BODY.replace("    return", "\n    return"), True),
        (BODY.replace("return CORRECT", "return 1.0"), False),
        (BODY.replace("solution", "answer"), False),
    ],
)
def test_code_counts_and_words_do_not(changed, same, digest, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_judge_of_a_test.py").write_text(BODY)
    importlib.invalidate_caches()
    address._source.cache_clear()
    before = digest(rewards=["own_judge_of_a_test:judge"])
    (tmp_path / "own_judge_of_a_test.py").write_text(changed)
    assert (digest(rewards=["own_judge_of_a_test:judge"]) == before) == same


def code(write_recipe, task: str, **keys: object) -> set[str]:
    return {name.removeprefix("open_r1.") for name in address.of(*resolve(write_recipe(task, **keys), {}))["code"]}


def test_a_task_depends_on_what_it_runs_and_on_no_more(write_recipe):
    grpo, sft, selection = (code(write_recipe, task) for task in ("grpo", "sft", "select"))
    assert {"grpo", "data", "callbacks", "rewards.math", "rewards.format", "tiny.problems"} <= grpo
    assert {"sft", "data"} <= sft and not {"grpo", "selection", "rewards.math"} & sft
    assert {"selection", "filters", "judged"} <= selection and "grpo" not in selection
    for found in (grpo, sft, selection):
        assert not {name.partition(".")[0] for name in found} & address.PRESENTATION
    assert "rewards.code" not in grpo
    assert "rewards.code" in code(write_recipe, "grpo", rewards=["code"])
    engines = [code(write_recipe, "sample", engine=name) for name in ("transformers", "vllm")]
    assert "engines.local" in engines[0] and "engines.vllm" in engines[1] - engines[0]
    assert "rewards.code" in code(write_recipe, "evaluate", benchmarks=["humaneval"])


def test_nothing_that_matters_is_called_presentation():
    """A name of that list that is no module would be a slip."""
    modules = {path.stem for path in address.PACKAGE.glob("*.py")} | {
        path.parent.name for path in address.PACKAGE.glob("*/__init__.py")
    }
    assert modules >= address.PRESENTATION
