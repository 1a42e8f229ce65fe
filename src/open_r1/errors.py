"""The one error a user is meant to read without a traceback."""

from __future__ import annotations

import difflib


class RecipeError(ValueError):
    """A recipe, or the data it names, that cannot be run as written; the message says what to change."""


class Unavailable(Exception):
    """Something that a run needs is not there, and may be the next time: a server, another machine."""

    CODE = 75  # exit code: EX_TEMPFAIL of sysexits.h


def suggest_nearest(word: str, known: list[str]) -> str:
    """What an unknown word may have meant, to end a message with."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
