"""Names before an answer: x, f(x), (x, y), |AB|."""

from __future__ import annotations

from .tokens import CLOSE, FRACTIONS, FUNCTIONS, GREEK, OPEN, Tokens

_COMMANDS = "angle triangle overline vec hat bar mid prime mathbf frac dfrac widehat overrightarrow lvert rvert"
_NAMING = frozenset("(){}[]|_',:") | {"\\" + command for command in _COMMANDS.split()}


def read_name(tokens: Tokens) -> tuple[str, str | None] | None:
    """The name (x, x_1, f(x), (x, y), |AB|, \\frac{NO}{BO}, ...) and a function's parameter; None for other tokens."""
    inverse = [token.text for token in tokens[1:6]] == ["^", "{", "-", "1", "}"] and len(tokens) > 6
    if inverse and tokens[6].text == "(":  # f^{-1}(x)
        tokens = (tokens[0]._replace(text=tokens[0].text + "'"), *tokens[6:])
    words = [t.text for t in tokens[1:] if t.spaced and t.kind == "word" and len(t.text) > 1]
    if not all(map(str.isupper, words)) or len(tokens) > 40:  # angle ABC is a name
        return None  # a sentence
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.text in OPEN) - (token.text in CLOSE)
        if token.kind == "number" and depth == 0 and (i == 0 or tokens[i - 1].text != "_"):
            return None
        if token.text.lower() in FUNCTIONS and depth == 0:
            return None
        if (
            token.kind in ("symbol", "command")
            and token.text not in _NAMING
            and token.text not in GREEK
            and not (depth > 0 and token.kind == "command" and token.text != "\\sqrt")
        ):
            return None
    if not any(token.kind in ("word", "text") or token.text in GREEK for token in tokens):
        return None
    name = "".join(token.text for token in tokens if token.text not in "{}")
    numbers = [i for i, token in enumerate(tokens) if token.kind == "number"]
    if FRACTIONS.intersection(token.text for token in tokens) and any(tokens[i - 1].text != "_" for i in numbers):
        return None  # AB/CD is a name, x/2 is not
    if len(tokens) == 4 and tokens[1].text == "(" and tokens[3].text == ")" and tokens[2].kind == "word":
        return tokens[0].text, tokens[2].text
    return name, None
