"""Route the log messages of libraries to a file, so that the terminal shows only our own output."""

from __future__ import annotations

import logging
import logging.handlers
import warnings
from pathlib import Path

LIBRARIES = (
    "py.warnings", "accelerate", "bitsandbytes", "datasets", "huggingface_hub", "math_verify", "peft", "torch",
    "transformers", "trl",
)  # fmt: skip
_held = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)


def hold_messages() -> None:
    """Buffer messages until a run directory exists. Call this before importing the libraries."""
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    _route(_held)


def release_messages(log: Path | None) -> None:
    """Write the buffered messages and all later ones to a file.

    Args:
        log: path of the file; None discards them, in all processes but the first.
    """
    import datasets
    from transformers.utils import logging as transformers_logging

    handler = logging.FileHandler(log, encoding="utf-8") if log else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.captureWarnings(True)
    _route(handler)
    _held.setTarget(handler)
    _held.flush()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()


def _route(handler: logging.Handler) -> None:
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
