"""The one error a user is meant to read without a traceback."""


class RecipeError(ValueError):
    """A recipe, or the data it names, that cannot be run as written; the message says what to change."""
