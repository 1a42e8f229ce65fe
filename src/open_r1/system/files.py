"""Files of a run directory: atomic writes, JSON, the status of a run, and the commit of the source.

This module imports nothing heavy, because the plan of a pipeline reads hundreds of run directories.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import RecipeError


def read_status(directory: Path) -> dict[str, Any]:
    """The content of `status.json`; an empty dict without that file."""
    path = directory / "status.json"
    return read_json(path) if path.is_file() else {}


def is_finished(directory: Path) -> bool:
    return read_status(directory).get("state") == "finished"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, up to a line that a kill has cut."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    with replace_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write a file atomically: yields a temporary path, which replaces `path` at the end of the block.

    An exception in the block deletes the temporary file and leaves `path` as it was.

    Raises:
        RecipeError: the disk is full.
    """
    # Several processes may write the same file at once, so each uses a name of its own.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    with explain_full_disk(path):
        try:
            yield partial
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                # Without this the name may reach the disk before the bytes, and a power cut leaves an empty file.
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn the error of a full disk into a `RecipeError` that says what to do.

    Raises:
        RecipeError: the disk, or the quota, is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RecipeError(
                f"the disk is full: {path} could not be written. Everything before it is kept; free some space, then "
                "run the same command again to continue"
            ) from error
        raise


def find_commit() -> str | None:
    """The git commit of the source, with `-dirty` if it has uncommitted changes; None outside a checkout."""
    here = Path(__file__).parents[1]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")
