"""Columns of a dataset, brought to the project's own names and types."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import datasets

from ..errors import RecipeError
from ..prompts import Messages

Rows = datasets.Dataset | datasets.IterableDataset
# Column layouts that each task's trainer reads; the first that the source has is used.
LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "grpo": (("prompt",),),
    "rloo": (("prompt",),),
    # What was sampled comes before the messages that its source may have brought along.
    "sft": (("prompt", "completion"), ("messages",), ("text",)),
    "dpo": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "reward": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "sample": (("prompt",),),
    "select": (("prompt", "completion"), ("messages",)),
    "mix": (("messages",), ("prompt", "chosen", "rejected"), ("prompt", "completion"), ("prompt",)),
    "evaluate": (("prompt",),),
    "imported": (("completion",),),  # completions made elsewhere
}
TEXT = datasets.Value("string")
MESSAGES = datasets.List({"role": TEXT, "content": TEXT})


def list_columns(rows: Rows) -> list[str]:
    """Column names; a stream may know them only from its first row."""
    return list(rows.column_names or next(iter(rows), {}))


def require_columns(wanted: list[str], have: list[str], at: str) -> None:
    for column in wanted:
        if column not in have:
            raise RecipeError(
                f"{at}: column {column!r} is missing; it has {', '.join(have)}. "
                f"Name its source with `columns: {{{column}: <their name>}}`"
            )


def find_layout(task: str, have: list[str], at: str) -> tuple[str, ...]:
    """The first of the task's column layouts that a source has."""
    layout = next((layout for layout in LAYOUTS[task] if all(c in have for c in layout)), None)
    if layout is None:
        wanted = " or ".join(" + ".join(layout) for layout in LAYOUTS[task])
        raise RecipeError(f"{at}: {task} needs the columns {wanted}; it has {', '.join(have)}")
    return layout


def fill_template(text: str, row: dict[str, Any], at: str, i: int) -> str:
    """A template with the row's columns in place of their names in braces; empty columns leave nothing."""
    try:
        return text.format_map({column: "" if value is None else value for column, value in row.items()}).strip()
    except (KeyError, ValueError, IndexError) as error:
        raise RecipeError(
            f"{at}, row {i}: the template {text!r} cannot be filled ({error}); its columns are {', '.join(row)}"
        ) from None


def extract_columns(patterns: dict[str, str], row: dict[str, Any], at: str, i: int) -> dict[str, str]:
    """The first group of each column's pattern."""
    new = {}
    for column, pattern in patterns.items():
        found = re.search(pattern, str(row[column]))
        if found is None:
            raise RecipeError(f"{at}, row {i}: {column!r} does not match {pattern!r}: {row[column]!r}")
        new[column] = found.group(1).strip()
    return new


def build_row_filter(filters: dict[str, Any], at: str) -> Callable[[dict[str, Any]], bool]:
    """`{level: {min: 3}, source: [aime, olympiads], solved: true}` as a predicate over rows."""
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "min": lambda value, bound: value >= bound,
        "max": lambda value, bound: value <= bound,
        "not": lambda value, other: value not in other if isinstance(other, list) else value != other,
        "matches": lambda value, pattern: re.search(pattern, str(value)) is not None,
    }
    for column, condition in filters.items():
        for name in condition if isinstance(condition, dict) else ():
            if name not in tests:
                raise RecipeError(f"{at}: filter of {column!r}: {name!r} is not one of {', '.join(tests)}")

    def meets(value: Any, condition: Any) -> bool:
        if isinstance(condition, dict):
            return value is not None and all(tests[name](value, bound) for name, bound in condition.items())
        return value in condition if isinstance(condition, list) else value == condition

    return lambda row: all(meets(row[column], condition) for column, condition in filters.items())


def reopen_reasoning(completion: Any) -> Any:
    """Completions, one or a list of them, with the `<think>` that their prompt had opened."""
    if isinstance(completion, list):
        return [reopen_reasoning(one) if isinstance(one, str) else one for one in completion]
    lacks_it = isinstance(completion, str) and completion.strip() and not completion.lstrip().startswith("<think>")
    return f"<think>\n{completion}" if lacks_it else completion


def parse_prompt(prompt: Any) -> Any:
    """A prompt as OpenAI's messages, which is how it is stored; a malformed one as it is."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    try:
        return parse_messages(prompt)
    except RecipeError:
        return prompt  # the task that reads it names its row


def parse_messages(value: Any, at: str = "row", i: int = 0) -> Messages:
    """A text, a message or a list of them, in OpenAI's (`role`, `content`) or ShareGPT's (`from`, `value`) keys."""
    roles = {"human": "user", "gpt": "assistant"}
    if not isinstance(value, str | dict | list):
        raise RecipeError(f"{at}, row {i}: expected a text or messages, got {value!r}")
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    messages = []
    for message in [value] if isinstance(value, dict) else value:
        role = message.get("role") or message.get("from") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        content = message.get("value") if content is None and isinstance(message, dict) else content
        if not isinstance(role, str) or not isinstance(content, str):
            raise RecipeError(f"{at}, row {i}: a message needs a role and a text, got {message!r}")
        messages.append({"role": roles.get(role, role), "content": content})
    return messages
