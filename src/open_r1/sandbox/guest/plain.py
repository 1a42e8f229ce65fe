"""Values as tagged plain data, and the comparison of an answer with the expected value.

Standard library only: the judge, the zygote's children and call drivers share it. JSON's types represent themselves;
any other value is an object with one key, its tag. Nothing here runs a method of an answer's class, so an object that
claims to equal everything is only an object that is not plain.
"""

from __future__ import annotations

import datetime
import json
import math
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

DEEP = 200  # most levels of nesting of a plain value
RELATIVE = 1e-9  # tolerance for floats: another order of summation is not a wrong answer
TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, type(None))}
SMALL = 1 << 53  # integers up to here are exact in every JSON reader


class NotPlain(ValueError):
    """A value without a plain form."""


def encode(value: Any, handle: Callable[[Any], Any] | None = None, depth: int = 0) -> Any:
    """Tagged JSON of a value; `handle` returns the content for objects that are not plain data.

    Instances of subclasses of list, dict, int, ... become the built-in type with their content.

    Raises:
        NotPlain: an object without a plain form, or nesting that is too deep.
    """
    if depth > DEEP:
        raise NotPlain("nested too deeply")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -SMALL < value < SMALL else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    for base, tag in (list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "set"), (deque, "deque"):
        if issubclass(kind, base):
            return {tag: [encode(item, handle, depth + 1) for item in base.__iter__(value)]}
    if issubclass(kind, dict):
        pairs = dict.items(value)
        return {"dict": [[encode(key, handle, depth + 1), encode(item, handle, depth + 1)] for key, item in pairs]}
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return encode(int.__add__(value, 0))
    if issubclass(kind, float):
        return encode(float.__add__(value, 0.0))
    if kind is complex:
        return {"complex": [repr(value.real), repr(value.imag)]}
    if kind is bytes or kind is bytearray:
        return {"bytes": value.hex()}
    if kind is Fraction:
        return {"fraction": [hex(value.numerator), hex(value.denominator)]}
    if kind is Decimal:
        return {"decimal": str(value)}
    if kind is datetime.timedelta:
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if kind in (datetime.datetime, datetime.date, datetime.time):
        return {kind.__name__: value.isoformat()}
    if kind is type and value in TYPES.values():
        return {"type": value.__name__}
    if kind is range:
        return {"range": [hex(part) for part in (value.start, value.stop, value.step)]}
    if handle is None:
        raise NotPlain(f"{kind.__name__} is not plain data")
    return {"handle": handle(value)}


def decode(data: Any, handle: Callable[[Any], Any] | None = None) -> Any:
    """The value of tagged JSON; of built-in types only, whoever wrote it.

    Raises:
        NotPlain: `encode` does not write this.
    """
    if type(data) is not dict:
        if data is None or type(data) in (bool, int, float, str):
            return data
        raise NotPlain(f"untagged {type(data).__name__}")
    if len(data) != 1:
        raise NotPlain("a tag stands alone")
    ((tag, content),) = data.items()
    if tag == "handle" and handle is not None:
        return handle(content)
    if tag not in _READERS:
        raise NotPlain(f"unknown tag {tag!r}")
    if tag in _CONTAINERS:
        if type(content) is not list:
            raise NotPlain(f"{tag} of {type(content).__name__}")
        return _CONTAINERS[tag](decode(item, handle) for item in content)
    try:
        if tag == "dict":
            return {decode(key, handle): decode(item, handle) for key, item in content}
        return _READERS[tag](content)
    except (TypeError, LookupError, ValueError, ArithmeticError, RecursionError) as error:
        raise NotPlain(f"{tag}: {error}") from None


def _read_hex(text: str) -> int:
    return int(text, 16)


def _make_ordered_set(items: Iterable[Any]) -> set[Any]:
    """A set that iterates in the order of its original, if one of Python's two table sizes for it does."""
    order = list(items)
    grown = set(order)
    copied = set(grown)
    return copied if list(grown) != order == list(copied) else grown


_CONTAINERS: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": _make_ordered_set, "deque": deque}
_READERS: dict[str, Callable[[Any], Any]] = _CONTAINERS | {
    "dict": dict,
    "int": _read_hex,
    "float": float,
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "bytes": bytes.fromhex,
    "fraction": lambda parts: Fraction(_read_hex(parts[0]), _read_hex(parts[1])),
    "decimal": Decimal,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "type": TYPES.__getitem__,
    "range": lambda parts: range(*map(_read_hex, parts)),
}


def matches(expected: Any, data: Any, exact: bool = False) -> bool:
    """Does an answer, as tagged data from an untrusted process, equal the expected value?

    The comparison follows the shape of `expected`, so a larger or deeper answer costs nothing. Numbers compare as in
    Python (`1 == 1.0 == True`), floats within a relative 1e-9, and NaN equals NaN. A tuple passes for an expected
    list, because expected values from JSON do not distinguish them; a list does not pass for an expected tuple. With
    `exact`, the two must also be equal in Python.
    """
    if exact:
        # The shape first: a larger answer is not built.
        return matches(expected, data) and decode(data) == expected
    kind = type(expected)
    if kind in (bool, int, float):
        return _is_same_number(expected, data)
    if expected is None or kind is str:
        return type(data) is kind and data == expected
    if type(data) is not dict or len(data) != 1:
        return False
    ((tag, content),) = data.items()
    if kind in (list, tuple, deque):
        tags = {list: ("list", "tuple"), tuple: ("tuple",), deque: ("deque",)}[kind]
        return tag in tags and _is_list(content, len(expected)) and all(map(matches, expected, content))
    if kind in (set, frozenset):
        return tag == "set" and _is_list(content, len(expected)) and _are_same_keys(expected, content)
    if kind is dict:
        if tag != "dict" or not _is_list(content, len(expected)):
            return False
        pairs = [pair for pair in content if _is_list(pair, 2)]
        if len(pairs) != len(expected) or not _are_same_keys(expected, [key for key, _ in pairs]):
            return False
        return all(matches(expected[decode(key)], value) for key, value in pairs)
    try:
        answer = decode(data)
    except NotPlain:
        return False
    return type(answer) is kind and answer == expected


def _is_list(data: Any, length: int) -> bool:
    return type(data) is list and len(data) == length


def _is_same_number(expected: float, data: Any) -> bool:
    if type(data) is dict:
        if set(data) - {"int", "float"}:
            return False
        try:
            data = decode(data)
        except NotPlain:
            return False
    if type(data) not in (bool, int, float):
        return False
    if type(expected) is not float and type(data) is not float:
        return data == expected
    if expected != expected or data != data:
        return expected != expected and data != data
    try:
        return math.isclose(expected, data, rel_tol=RELATIVE, abs_tol=0.0)
    except OverflowError:  # an integer beyond every float
        return expected == data


def _are_same_keys(expected: Any, keys: list[Any]) -> bool:
    """True for the same keys. `expected` is never looked up among them: chosen hash collisions cost nothing."""
    seen = set()
    for data in keys:
        try:
            key = decode(data)
            if key not in expected:
                return False
        except (NotPlain, TypeError):
            return False
        seen.add(key)
    return len(seen) == len(expected)


def answer_call(namespace: dict[str, Any], call: dict[str, Any]) -> str:
    """Call a program's function in its process: one line of JSON with the value or the exception's name."""
    try:
        target: Any = namespace
        first, *rest = call["function"].split(".")
        # Its methods go before other names: the imports for LeetCode's programs include `merge` and `add`.
        if "Solution" in namespace and (first not in namespace or hasattr(namespace["Solution"], first)):
            target, rest = namespace["Solution"](), [first, *rest]
        elif first in namespace:
            target = namespace[first]
            if isinstance(target, type) and rest:
                target = target()
        else:
            raise NameError(f"the program defines no function {first}")
        for name in rest:
            target = getattr(target, name)
        value = target(*decode(call["arguments"]), **decode(call["keywords"]))
        return json.dumps({"value": encode(value)})
    except BaseException as error:
        return json.dumps({"raised": type(error).__name__, "text": str(error)[:300]})
