"""Column layouts, templates, patterns and filters of sources, and prompts and messages in one format."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import datasets

from ..errors import RecipeError
from ..prompts import Messages

Rows = datasets.Dataset | datasets.IterableDataset
# The column layouts that each task reads; the first that a source has is used.
LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "grpo": (("prompt",),),
    "rloo": (("prompt",),),
    # Sampled completions take precedence over `messages` that their source may have.
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
    """Column names; those of a stream without features are read from its first row."""
    return list(rows.column_names or next(iter(rows), {}))


def require_columns(wanted: list[str], have: list[str], at: str) -> None:
    """Raise a RecipeError that begins with `at` if one of the wanted columns is missing."""
    for column in wanted:
        if column not in have:
            raise RecipeError(
                f"{at}: column {column!r} is missing; it has {', '.join(have)}. "
                f"Name its source with `columns: {{{column}: <their name>}}`"
            )


def find_layout(task: str, have: list[str], at: str) -> tuple[str, ...]:
    """The first column layout of the task that a source has.

    Raises:
        RecipeError: it has none of them.
    """
    layout = next((layout for layout in LAYOUTS[task] if all(c in have for c in layout)), None)
    if layout is None:
        wanted = " or ".join(" + ".join(layout) for layout in LAYOUTS[task])
        raise RecipeError(f"{at}: {task} needs the columns {wanted}; it has {', '.join(have)}")
    return layout


def fill_template(text: str, row: dict[str, Any], at: str, i: int) -> str:
    """Replace the column names in braces by the row's values; None becomes the empty string.

    >>> fill_template("{question} ({unit})", {"question": "How far?", "unit": "km"}, "datasets.0", 0)
    'How far? (km)'
    """
    try:
        return text.format_map({column: "" if value is None else value for column, value in row.items()}).strip()
    except (KeyError, ValueError, IndexError) as error:
        raise RecipeError(
            f"{at}, row {i}: the template {text!r} cannot be filled ({error}); its columns are {', '.join(row)}"
        ) from None


def extract_columns(patterns: dict[str, str], row: dict[str, Any], at: str, i: int) -> dict[str, str]:
    """Replace each column by the first group of its pattern.

    >>> extract_columns({"answer": r"#### (.*)"}, {"answer": "6 * 7 #### 42"}, "datasets.0", 0)
    {'answer': '42'}
    """
    new = {}
    for column, pattern in patterns.items():
        match = re.search(pattern, str(row[column]))
        if match is None:
            raise RecipeError(f"{at}, row {i}: {column!r} does not match {pattern!r}: {row[column]!r}")
        new[column] = match.group(1).strip()
    return new


def build_row_filter(filters: dict[str, Any], at: str) -> Callable[[dict[str, Any]], bool]:
    """Build a predicate over rows from `filters`, e.g. `{level: {min: 3}, source: [aime, amc], solved: true}`."""
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
    """Add the `<think>` tag that the chat template put into the prompt to a completion, or to each of a list."""
    if isinstance(completion, list):
        return [reopen_reasoning(text) if isinstance(text, str) else text for text in completion]
    lacks_tag = isinstance(completion, str) and completion.strip() and not completion.lstrip().startswith("<think>")
    return f"<think>\n{completion}" if lacks_tag else completion


def parse_prompt(prompt: Any) -> Any:
    """Convert a prompt to OpenAI's messages; a malformed prompt is returned unchanged."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    try:
        return parse_messages(prompt)
    except RecipeError:
        return prompt  # the task that reads it reports its row


def parse_messages(value: Any, at: str = "row", i: int = 0) -> Messages:
    """Convert a text, a message or a list of messages to OpenAI's format; a text becomes an assistant message.

    Messages have the keys of OpenAI (`role`, `content`) or of ShareGPT (`from`, `value`).

    >>> parse_messages([{"from": "human", "value": "What is 1 + 1?"}, {"from": "gpt", "value": "2"}])
    [{'role': 'user', 'content': 'What is 1 + 1?'}, {'role': 'assistant', 'content': '2'}]

    Raises:
        RecipeError: the value is none of these. The message names `at` and row `i`.
    """
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
