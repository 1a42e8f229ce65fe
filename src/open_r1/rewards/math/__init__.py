"""Mathematics: is the answer of a completion the gold answer?"""

from .scorers import accuracy, ballot, equal

__all__ = ["accuracy", "ballot", "equal"]
