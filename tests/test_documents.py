"""Figures in the documents come from stored results, and are marked where a recipe has changed since."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from open_r1.config.loading import resolve_recipe
from open_r1.launch.nodes import count_gpus
from open_r1.pipeline import graph

MEASURED = re.compile(r"\d%|\d(?:\.\d+)? (?:s|ms|µs|times|minutes|hours|[MG]i?B|tokens a second)\b|\d rows a second")
FREE = ("README.md", "benchmarks/README.md")  # whose every figure has a marker
RECIPE = "recipes/tiny/sft/base.yaml"


@pytest.fixture
def documents(monkeypatch):
    """benchmarks/documents.py, imported anew so that it remembers nothing."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.chdir(ROOT)
    for name in ("documents", "record"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("documents")


@pytest.fixture
def stored(documents, tmp_path, monkeypatch):
    """`stored(value=1)`: one result named `one`, in place of all others."""
    monkeypatch.setattr(documents, "RESULTS", tmp_path)

    def store(**content: object) -> None:
        origin = {"command": "benchmarks/one.py", "commit": "0123456789abcdef", "date": "2026-01-02T03:04", "cores": 2}
        (tmp_path / "one.json").write_text(json.dumps({"machine": origin} | content))
        documents.result.cache_clear()
        documents.is_current.cache_clear()

    return store


def test_documents_show_their_results(documents):
    for name in documents.DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert documents.filled(text, name) == text, f"{name} differs from benchmarks/results: run `make documents`"


def test_every_result_is_in_a_table_of_benchmarks(documents):
    table = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\(results/([\w.]+)\)", table))
    assert listed == {path.name for path in documents.RESULTS.glob("*.json")}


@pytest.mark.parametrize("name", FREE)
def test_no_figure_stands_outside_of_markers(documents, name):
    text = documents.FIGURE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert [line for line in text.splitlines() if MEASURED.search(line)] == []


def test_readme_has_at_most_a_thousand_words():
    text = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(text.split()) <= 1000


def test_a_changed_value_changes_the_document(documents, stored):
    stored(value=0.123)
    text = "so <!-- figure: one {value:.1%} -->12.3%<!-- /figure --> it is"
    assert documents.filled(text, "a") == text
    stored(value=0.456)
    assert documents.filled(text, "a") == text.replace("12.3%", "45.6%")


def test_lists_fill_the_rows_of_a_table(documents, stored):
    stored(rows=[{"n": 1}, {"n": 2}])
    head = "\n| n |\n|---|\n"
    text = "<!-- figure: one.rows\n| {n} of {commit} |\n-->{}<!-- /figure -->"
    filled = documents.filled(text.replace("{}", head + "| old |\n"), "a")
    assert filled == text.replace("{}", head + "| 1 of 0123456 |\n| 2 of 0123456 |\n")
    assert documents.filled(filled, "a") == filled


def test_a_row_says_where_it_comes_from(documents, stored):
    stored(value=7)
    text = "<!-- figure: *\none | a label | {value}\n-->\n| |\n|---|\n<!-- /figure -->"
    row = "| a label | 7 | `benchmarks/one.py` | 0123456 | 2026-01-02 | 2 CPU cores | [one](results/one.json) |"
    assert row in documents.filled(text, "a")


def test_a_figure_of_another_recipe_is_marked(documents, stored):
    inline = "so <!-- figure: one {value} -->7<!-- /figure --> it is"
    block = "<!-- figure: one\n{value}\n-->\n7\n<!-- /figure -->"
    stored(value=7, recipe=RECIPE, fingerprint=documents.fingerprint(RECIPE))
    assert documents.filled(inline, "a") == inline and documents.filled(block, "a") == block
    stored(value=7, recipe=RECIPE, fingerprint="of before")
    marked = documents.filled(inline, "a")
    assert "-->7 (at commit 0123456)<!--" in marked and documents.filled(marked, "a") == marked
    assert "\nMeasured at commit 0123456.\n" in documents.filled(block, "a")


@pytest.mark.parametrize("text, message", [
    ("a <!-- figure: two {value} -->7<!-- /figure -->", "two.json: there is no such result"),
    ("a <!-- figure: one {other} -->7<!-- /figure -->", "one.json does not fit the format '{other}'"),
    ("a <!-- figure: one {value} -->7", "is not closed"),
    ("<!-- figure: one {value} -->7<!-- /figure --> b", "the line begins with"),
])  # fmt: skip
def test_a_wrong_marker_is_an_error(documents, stored, text, message):
    stored(value=7)
    with pytest.raises(SystemExit, match=re.escape(message)):
        documents.filled(text, "a")


def test_a_fingerprint_is_of_recipe_base_and_problems(documents, tmp_path, monkeypatch):
    """And not of a comment, nor of where the run lies."""
    shutil.copytree(ROOT / "recipes" / "tiny", tmp_path / "recipes" / "tiny")
    monkeypatch.chdir(tmp_path)
    zero, base = (Path("recipes/tiny") / name for name in ("grpo/r1_zero.yaml", "sft/base.yaml"))
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"prompt": "add a 4 b 5 last digit ?", "solution": "9"}\n')
    text = zero.read_text().partition("evaluation:")
    after = text[2].partition("  k: 16")
    zero.write_text(f"{text[0]}evaluation:\n  datasets: [{problems}]\n  k: 16{after[2]}")

    def now() -> str:
        documents._rows.cache_clear()
        return documents.fingerprint(str(zero))

    first = now()
    zero.write_text("# A comment.\n" + zero.read_text() + "\noutput_dir: elsewhere\n")
    assert now() == first
    seen = {first}
    for path, old, new in (
        (zero, "max_steps: 100", "max_steps: 90"),
        (base, "seed: 0", "seed: 1"),
        (problems, "9", "8"),
    ):
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        assert now() not in seen
        seen.add(now())


def test_documents_and_headers_give_a_pipeline_its_gpus(monkeypatch):
    """As many as its largest stage asks for."""
    monkeypatch.chdir(ROOT)
    table = (ROOT / "recipes" / "README.md").read_text()
    listed = dict(
        re.findall(r"^\| `(\w[\w.]*)\.yaml` \|[^|]*\| (?:(\d+) GPUs|2 CPU cores)[^|]*\|$", table, re.MULTILINE)
    )
    assert listed.keys() == {path.stem for path in ROOT.glob("recipes/pipelines/*.yaml")}
    for name, told in listed.items():
        path = Path(f"recipes/pipelines/{name}.yaml")
        stages = graph.read_pipeline(path).stages
        most = max(sum(count_gpus(resolve_recipe(Path(stage.recipe), stage.overrides)[1])) for stage in stages)
        assert int(told or 0) == most, f"recipes/README.md: {name} asks for {most} GPUs"
        header = re.search(r"Hardware: .*?(\d+) (?:GPUs|H800)", path.read_text().replace("\n# ", " "))
        assert most == 0 or int(header[1]) == most, f"{path}: its header"
