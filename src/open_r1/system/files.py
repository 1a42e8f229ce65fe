"""The files of a run directory: its status, JSON that is written whole, who holds it, and the commit it is made at.

Nothing heavy is imported here: a plan reads hundreds of these directories.
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
    path = directory / "status.json"
    return read_json(path) if path.is_file() else {}


def is_finished(directory: Path) -> bool:
    return read_status(directory).get("state") == "finished"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a file whose last line may have been cut by a kill."""
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
    """A name to write to, which takes the place of `path` once the block is left, and is deleted if it fails.

    Raises:
        RecipeError: the disk is full.
    """
    # Processes may write the same file at once: each to a name of its own.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    with explain_full_disk(path):
        try:
            yield partial
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                # Otherwise the name could reach the disk before the bytes, and a power cut would leave it empty.
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Say of a full disk that nothing is lost."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RecipeError(
                f"the disk is full: {path} could not be written. What was finished before it is kept; free some "
                "space, and the same command goes on"
            ) from error
        raise


def find_commit() -> str | None:
    """The source's git commit, `-dirty` if it has uncommitted changes; None outside a checkout."""
    here = Path(__file__).parents[1]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")
