"""The program in a completion."""

from __future__ import annotations

import re

from ...sandbox.cases import AssertTest, Language, Program, StdinTest
from .suites import Suite, extract_helpers, find_language, find_unfinished

_FENCE = re.compile(r"([ \t]*+)(`{3,}+|~{3,}+)[ \t]*+([^\r\n]*)\r?")
# What tells a program in a block without an info string from sample output or a shell session.
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
# LeetCode runs solutions with these names at hand, and its solutions use them. `builtins` comes after `math` and
# `operator`, which would otherwise hide pow and others.
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
    """A prompt that is code and ends in an unfinished function, as HumanEval's are."""
    return prompt if prompt and find_unfinished(prompt) else ""


def extract_program(completion: str, language: Language = "python") -> str | None:
    """The program in a completion: the last complete fenced block of its answer; None if there is none.

    The answer is what stands after the last `</think>`, and inside the last `<answer>` if there is one; a reasoning or
    an answer that is never closed has no program. Blocks are CommonMark's (backticks or tildes, three or more, a
    closing fence at least as long), indented as deep as one likes; a fence that is never closed is no block. A block
    whose info string names another language is passed over (`bash`, `text`, `json`, ...). So is a block without an
    info string that does not look like code, in favour of one that does or that names the language: models like to
    show sample output after their program.
    """
    fallback = None
    for info, source in reversed(fenced_blocks(answer_of(completion))):
        if info and _language_of(info) == language:
            return source
        if not info:
            if _LIKE_CODE[language].search(source):
                return source
            fallback = fallback if fallback is not None else source
    return fallback


def answer_of(completion: str) -> str:
    """The part of a completion that is its answer; empty if the reasoning or the answer is never closed."""
    _, closed, text = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        return ""
    _, opened, inner = text.rpartition("<answer>")
    if not opened:
        return text
    inner, closed, _ = inner.partition("</answer>")
    return inner if closed else ""


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Info string and contents of every complete fenced block, in order. Linear in the length of the text."""
    blocks: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if opened is None:
            # An info string with a backtick in it is inline code: ```x```.
            if fence and not (fence[2][0] == "`" and "`" in fence[3]):
                opened, lines = fence, []
        elif fence and _closes(fence, opened):
            blocks.append((opened[3].strip(), "\n".join(lines) + "\n" if lines else ""))
            opened = None
        else:
            lines.append(_without_indent(line, len(opened[1])))
    return blocks


def _closes(fence: re.Match[str], opened: re.Match[str]) -> bool:
    """A fence of the same kind, no shorter, alone on its line; one that is deeper by four is contents."""
    return (
        fence[2][0] == opened[2][0]
        and len(fence[2]) >= len(opened[2])
        and not fence[3].strip()
        and len(fence[1].expandtabs(4)) <= len(opened[1].expandtabs(4)) + 3
    )


def _without_indent(line: str, width: int) -> str:
    """A line of a block without the indentation of its fence."""
    return line[min(width, len(line) - len(line.lstrip(" \t"))) :]


def _language_of(info: str) -> Language | None:
    """The language of an info string: `python`, `Python3 title=x`, `{.cpp .numberLines}`, `solution.py`."""
    word = info.lstrip("{.").split()[0] if info.lstrip("{.").split() else ""
    word = word.rstrip("}")
    return find_language(word) or find_language(word.rpartition(".")[2])


def assemble_program(source: str, suite: Suite) -> Program:
    """The program as it is run: with the parts of the suite's prefix that it lacks put before it.

    A prefix may end in an unfinished function, as HumanEval's prompts do. Then what stands before that function goes
    first, and a program that does not define the function is taken for its body.
    """
    if suite.language == "python":
        source = _with_python_prefix(source, suite.prefix)
        if "class Solution" in source and not any(isinstance(test, StdinTest) for test in suite.tests):
            source = _LEETCODE + source
        future = "".join(_FUTURE.findall(source))
        return Program(future + _FUTURE.sub("", source) if future else source, "python")
    source = _with_braced_prefix(source, suite.prefix, suite.language)
    if suite.language == "cpp" and any(isinstance(t, AssertTest) and "main(" in t.source for t in suite.tests):
        # The tests bring their own main; the program's keeps out of its way.
        source = f"#define main main_of_the_program\n{source}\n#undef main\n"
    return Program(source, suite.language)


def _with_python_prefix(source: str, prefix: str) -> str:
    unfinished_part = find_unfinished(prefix)
    if unfinished_part is None:
        return f"{prefix}\n{source}" if prefix else source
    outer, function = unfinished_part
    if re.search(rf"^(?:(?:async )?def|class)[ \t]+{outer.name}\b|^{outer.name}[ \t]*=", source, re.MULTILINE):
        return f"{extract_helpers(prefix)}\n{source}"
    indented = source.lstrip("\r\n")[:1] in (" ", "\t")
    return f"{prefix.rstrip()}\n{source if indented else _indented(source, function.body[0].col_offset)}"


def _indented(source: str, width: int) -> str:
    return "\n".join(" " * width + line if line.strip() else line for line in source.split("\n"))


def _with_braced_prefix(source: str, prefix: str, language: Language) -> str:
    """The same for languages with braces: the unfinished function is the last line, `long length(string s) {`."""
    head, _, signature = prefix.rstrip().rpartition("\n")
    name = re.search(r"(\w+)[ \t]*\(", signature)
    if not signature.endswith("{") or name is None:
        return f"{prefix}\n{source}" if prefix else source
    definition = {
        "cpp": rf"\b{name[1]}\s*\([^;{{}}]{{0,1000}}\)[^;{{}}()]{{0,200}}\{{",
        "javascript": rf"\bfunction\b[\s*]*\b{name[1]}\b|\b{name[1]}\s*=",
    }[language]
    if re.search(definition, source):
        return f"{_missing(head, source)}\n{source}"
    unclosed = source.count("{") - source.count("}")
    return f"{prefix.rstrip()}\n{source.rstrip()}\n" + "}\n" * (unclosed + 1)


def _missing(head: str, source: str) -> str:
    """The head, or only its `#include` and `using` lines if the program repeats what it defines."""
    defined = re.findall(r"\b(?:struct|class|union|enum)\s+(\w+)|(\w+)[ \t]*\([^;{}()]*\)\s*\{", head)
    if any(re.search(rf"\b(?:struct|class|union|enum)\s+{a}\b" if a else rf"\b{b}\s*\(", source) for a, b in defined):
        return "\n".join(line for line in head.split("\n") if line.startswith(("#", "using ")))
    return head
