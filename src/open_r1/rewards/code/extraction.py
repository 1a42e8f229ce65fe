"""The program in a completion."""

from __future__ import annotations

import re

from ...sandbox.cases import AssertTest, Language, Program, StdinTest
from ..answer_part import find_answer_part
from .assert_tests import extract_helpers, find_unfinished
from .suites import Suite, find_language

_FENCE = re.compile(r"([ \t]*+)(`{3,}+|~{3,}+)[ \t]*+([^\r\n]*)\r?")
# Distinguishes a program in a block without an info string from sample output or a shell session.
_LIKE_CODE: dict[Language, re.Pattern[str]] = {
    "python": re.compile(
        r"^[ \t]*+(?:(?:async )?def \w|class \w|import \w|from [\w.]++ import|for .{1,300}:|while .{1,300}:|"
        r"if .{1,300}:|try:|with .{1,300}:|print ?\(|sys\.\w|[\w, ]{1,80}= ?(?:input|int|list|map|sys)\b)",
        re.MULTILINE,
    ),
    "cpp": re.compile(r"^[ \t]*+#[ \t]*+(?:include|define)|;[ \t]*+\r?$", re.MULTILINE),
    "javascript": re.compile(
        r"^[ \t]*+(?:const|let|var|function|async|class|import|export|module|process|console)\b|=>|;[ \t]*+\r?$",
        re.MULTILINE,
    ),
}
# LeetCode's solutions use these names without importing them. `builtins` comes after `math` and `operator`, which
# would otherwise hide pow and others.
_LEETCODE = """\
import bisect, collections, copy, datetime, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from copy import *
from functools import *
from heapq import *
from itertools import *
from math import *
from operator import *
from random import *
from string import *
from builtins import *
from typing import *
"""
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)


def find_prompt_code(prompt: str) -> str:
    """The prompt if it is code that ends in an unfinished function, as HumanEval's are; else empty."""
    return prompt if prompt and find_unfinished(prompt) else ""


def extract_program(completion: str, language: Language = "python") -> str | None:
    """The program in a completion: the last complete fenced block of its answer; None if there is none.

    `find_answer_part` gives the answer. Blocks are CommonMark's (three or more backticks or tildes, a closing fence at
    least as long), at any indentation; a fence that is never closed opens no block. A block whose info string names
    another language (`bash`, `text`, `json`, ...) is skipped. A block without an info string that does not look like
    code counts only if no other block does: models often show sample output after their program.
    """
    fallback = None
    for info, source in reversed(find_fenced_blocks(find_answer_part(completion))):
        if info and _read_info_language(info) == language:
            return source
        if not info:
            if _LIKE_CODE[language].search(source):
                return source
            fallback = fallback if fallback is not None else source
    return fallback


def find_fenced_blocks(text: str) -> list[tuple[str, str]]:
    r"""Info string and contents of each complete fenced block, in order, in time linear in the length of the text.

    >>> find_fenced_blocks("So:\n```py\nprint(1)\n```")
    [('py', 'print(1)\n')]
    """
    blocks: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if opened is None:
            # With a backtick in the info string it is inline code: ```x```.
            if fence and not (fence[2][0] == "`" and "`" in fence[3]):
                opened, lines = fence, []
        elif fence and _closes_block(fence, opened):
            blocks.append((opened[3].strip(), "".join(f"{line}\n" for line in lines)))
            opened = None
        else:
            indent = min(len(opened[1]), len(line) - len(line.lstrip(" \t")))
            lines.append(line[indent:])
    return blocks


def _closes_block(fence: re.Match[str], opened: re.Match[str]) -> bool:
    """True for a fence of the same kind, at least as long, alone on its line and indented by at most three more."""
    return (
        fence[2][0] == opened[2][0]
        and len(fence[2]) >= len(opened[2])
        and not fence[3].strip()
        and len(fence[1].expandtabs(4)) <= len(opened[1].expandtabs(4)) + 3
    )


def _read_info_language(info: str) -> Language | None:
    """The language of an info string: `python`, `Python3 title=x`, `{.cpp .numberLines}`, `solution.py`."""
    word = info.lstrip("{.").split()[0] if info.lstrip("{.").split() else ""
    word = word.rstrip("}")
    return find_language(word) or find_language(word.rpartition(".")[2])


def assemble_program(source: str, suite: Suite) -> Program:
    """The program to run: the source, after the parts of the suite's prefix that it lacks.

    A prefix may end in an unfinished function, as HumanEval's prompts do. Then the code before that function goes
    first, and a source that does not define the function is taken as its body.
    """
    if suite.language == "python":
        source = _add_python_prefix(source, suite.prefix)
        if "class Solution" in source and not any(isinstance(test, StdinTest) for test in suite.tests):
            source = _LEETCODE + source
        future = "".join(_FUTURE.findall(source))
        return Program(future + _FUTURE.sub("", source) if future else source, "python")
    source = _add_braced_prefix(source, suite.prefix, suite.language)
    if suite.language == "cpp" and any(isinstance(t, AssertTest) and "main(" in t.source for t in suite.tests):
        # The tests define main; the program may define one too.
        source = f"#define main main_of_the_program\n{source}\n#undef main\n"
    return Program(source, suite.language)


def _add_python_prefix(source: str, prefix: str) -> str:
    unfinished_part = find_unfinished(prefix)
    if unfinished_part is None:
        return f"{prefix}\n{source}" if prefix else source
    outer, function = unfinished_part
    if re.search(rf"^(?:(?:async )?def|class)[ \t]+{outer.name}\b|^{outer.name}[ \t]*=", source, re.MULTILINE):
        return f"{extract_helpers(prefix)}\n{source}"
    indented = source.lstrip("\r\n")[:1] in (" ", "\t")
    return f"{prefix.rstrip()}\n{source if indented else _indent(source, function.body[0].col_offset)}"


def _indent(source: str, width: int) -> str:
    # textwrap.indent would also indent after a form feed.
    return "\n".join(" " * width + line if line.strip() else line for line in source.split("\n"))


def _add_braced_prefix(source: str, prefix: str, language: Language) -> str:
    """The same for languages with braces, where the unfinished function is the last line: `long f(string s) {`."""
    head, _, signature = prefix.rstrip().rpartition("\n")
    name = re.search(r"(\w+)[ \t]*\(", signature)
    if not signature.endswith("{") or name is None:
        return f"{prefix}\n{source}" if prefix else source
    definition = {
        "cpp": rf"\b{name[1]}\s*\([^;{{}}]{{0,1000}}\)[^;{{}}()]{{0,200}}\{{",
        "javascript": rf"\bfunction\b[\s*]*\b{name[1]}\b|\b{name[1]}\s*=",
    }[language]
    if re.search(definition, source):
        return f"{_find_missing_head(head, source)}\n{source}"
    unclosed = source.count("{") - source.count("}")
    return f"{prefix.rstrip()}\n{source.rstrip()}\n" + "}\n" * (unclosed + 1)


def _find_missing_head(head: str, source: str) -> str:
    """The head, or only its `#include` and `using` lines if the program repeats what it defines."""
    defined = re.findall(r"\b(?:struct|class|union|enum)\s+(\w+)|(\w+)[ \t]*\([^;{}()]*\)\s*\{", head)
    if any(re.search(rf"\b(?:struct|class|union|enum)\s+{a}\b" if a else rf"\b{b}\s*\(", source) for a, b in defined):
        return "\n".join(line for line in head.split("\n") if line.startswith(("#", "using ")))
    return head
