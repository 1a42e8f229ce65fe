"""The README's commands are real: its targets, recipes, files and options exist, and its overrides resolve."""

from __future__ import annotations

import re
import shlex

import pytest
from conftest import ROOT, shared

from open_r1.configs import load_recipe

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_there_are_commands():
    assert {"make install", "make train", "make test", "make lint", "make test-long"} <= set(COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), "a target of the Makefile"
        values = dict(word.split("=", 1) for word in words[2:])
        assert values.keys() <= {"RECIPE", "ARGS"}
        recipe, overrides = values.get("RECIPE", "recipes/tiny/grpo/r1_zero.yaml"), shlex.split(values.get("ARGS", ""))
    elif "launch" in words:
        assert (ROOT / words[words.index("--config_file") + 1]).is_file() and (ROOT / words[4]).is_file()
        recipe, overrides = words[words.index("--config") + 1], []
    else:
        assert words[:2] == [".venv/bin/open-r1", "train"]
        recipe, overrides = words[2], words[3 : words.index("--processes")]
    if "gsm8k.jsonl" in line:
        overrides = [str(shared("gsm8k", "train.jsonl")) if w == "gsm8k.jsonl" else w for w in overrides] + ["--toy"]
    load_recipe(recipe, overrides)


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
