"""Assert tests: test code in one process, the program in another, and plain data between them on two pipes.

Test code holds the expected values, so it must never share a process with the program. The names that it uses and
does not define become remote objects: a call goes to the program's process as tagged data, and so does its result on
the way back. A result without a plain form stays there; here it is a handle, and the program's code never decides
whether it is equal to something. Helpers of the test run here. A test that would let the program's code judge the
program is not used. Standard library only.
"""

from __future__ import annotations

import ast
import builtins
import collections
import functools
import importlib
import itertools
import json
import math
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterator
from typing import Any

import plain

PASSED, FAILED, UNKNOWN, ENDED = "passed", "failed", "unknown", "ended"
LONGEST = 16 << 20  # bytes of one message
# Names that a test may expect the program to import. They never come from the program, which could define anything.
LIBRARY: dict[str, Any] = {
    **{name: getattr(typing, name) for name in ("Any", "Dict", "List", "Optional", "Set", "Tuple", "Union")},
    **{name: getattr(collections, name) for name in ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple")},
}
MODULES = {module.__name__: module for module in (collections, functools, itertools, math, re, sys)}


class EndOfTest(BaseException):
    """Ends a test whatever it catches; `Connection.verdict` has the outcome."""


def serve(namespace: dict[str, Any], requests: int, answers: int) -> None:
    """Carry out requests on the program's names and objects until the tester closes the pipe."""
    objects: list[Any] = []
    numbers: dict[int, int] = {}

    def keep(value: Any) -> int:
        if id(value) not in numbers:
            numbers[id(value)] = len(objects)
            objects.append(value)
        return numbers[id(value)]

    with open(requests, "rb", closefd=False) as lines:
        for line in lines:
            request = json.loads(line)
            try:
                answer = _answer_request(namespace, request, objects, keep)
                reply = json.dumps(answer)
            except BaseException as error:
                ancestors = [kind.__name__ for kind in type(error).__mro__]
                reply = json.dumps({"raised": ancestors, "text": str(error)[:1000]})
            _write_all(answers, reply.encode() + b"\n")


def _answer_request(namespace: dict, request: dict, objects: list, keep: Callable[[Any], int]) -> dict[str, Any]:
    what, arguments = request["do"], plain.decode(request["arguments"], objects.__getitem__)
    if what == "name":
        if arguments[0] not in namespace:
            return {"missing": True}
        value = namespace[arguments[0]]
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"exception": [kind.__name__ for kind in value.__mro__]}
        return {"value": plain.encode(value, keep)}
    if what == "call":
        target, positional, keywords = arguments
        value = target(*positional, **keywords)
        changed = [
            [index, plain.encode(argument, keep)]
            for index, argument in enumerate(positional)
            if type(argument) in (list, dict, set)
        ]
        return {"value": plain.encode(value, keep), "changed": changed}
    return {"value": plain.encode(OPERATIONS[what](*arguments), keep)}


OPERATIONS: dict[str, Callable[..., Any]] = {
    "attribute": getattr,
    "set_attribute": setattr,
    "item": lambda target, key: target[key],
    "set_item": lambda target, key, value: target.__setitem__(key, value),
    "delete_item": lambda target, key: target.__delitem__(key),
    "length": len,
    "iterate": iter,
    "next": next,
    "text": str,
    "representation": repr,
    "truth": bool,
}


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


class Remote:
    """An object of the program's process.

    Operations that ask it for an answer are passed on. Those that would let the program judge an answer are not: it
    equals no plain data, a comparison with another object of the program is unknown, and it has no arithmetic or
    ordering.
    """

    def __init__(self, connection: Connection, number: int):
        self.__dict__.update(_connection=connection, _number=number)

    def _ask(self, what: str, *arguments: Any) -> Any:
        return self._connection.ask(what, (self, *arguments))

    def __call__(self, *positional: Any, **keywords: Any) -> Any:
        return self._connection.call(self, positional, keywords)

    def __getattr__(self, name: str) -> Any:
        return self._ask("attribute", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set_attribute", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set_item", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("delete_item", key)

    def __len__(self) -> int:
        return self._ask("length")

    def __iter__(self) -> Iterator[Any]:
        return self._ask("iterate")

    def __next__(self) -> Any:
        return self._ask("next")

    def __str__(self) -> str:
        return self._ask("text")

    def __repr__(self) -> str:
        return self._ask("representation")

    def __bool__(self) -> bool:
        return self._ask("truth")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Remote):
            return False
        if other._number == self._number:
            return True
        return self._connection.stop(UNKNOWN, "the test compares two objects of the program's own classes")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._number)

    def __instancecheck__(self, instance: object) -> bool:
        return self._connection.stop(UNKNOWN, "the test asks for an instance of a class of the program's own")


class Connection:
    """The tester's end of the pipes."""

    def __init__(self, requests: int, answers: int):
        self.requests = requests
        self.answers = os.fdopen(answers, "rb", closefd=False)
        self.used = False  # True once the program was asked for one of its names
        self.verdict: tuple[str, str] | None = None
        self.changes: list[tuple[Any, Any]] = []
        self.exceptions: dict[str, type[Exception]] = {}
        self.remotes: dict[int, Remote] = {}

    def stop(self, status: str, reason: str) -> Any:
        self.verdict = self.verdict or (status, reason)
        raise EndOfTest(reason)

    def exchange(self, what: str, arguments: Any) -> dict[str, Any]:
        """One request and its answer; the program's exceptions are raised here under their names."""
        try:
            data = plain.encode(arguments, self.get_number)
        except plain.NotPlain as error:
            return self.stop(UNKNOWN, f"the test gives the program something that is not plain data: {error}")
        try:
            _write_all(self.requests, json.dumps({"do": what, "arguments": data}).encode() + b"\n")
            line = self.answers.readline(LONGEST)
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            return self.stop(FAILED, "too large an answer") if line else self.stop(ENDED, "the program has ended")
        try:
            answer = json.loads(line)
            if type(answer) is not dict:
                raise TypeError(f"a {type(answer).__name__}")
            if "raised" in answer:
                error = self.make_exception(answer["raised"])(str(answer["text"]))
            elif "value" in answer:
                answer["value"] = plain.decode(answer["value"], self.get_remote)
        except (ValueError, TypeError, KeyError, RecursionError) as malformed:
            return self.stop(FAILED, f"a malformed answer: {malformed}")
        if "raised" in answer:
            raise error
        return answer

    def ask(self, what: str, arguments: Any) -> Any:
        return self.exchange(what, arguments).get("value")

    def call(self, target: Remote, positional: tuple, keywords: dict[str, Any]) -> Any:
        self.used = True
        answer = self.exchange("call", (target, positional, keywords))
        value = answer.get("value")
        # A function that works in place has no other result. For one that returns a container only that counts: by
        # changes to its arguments it could change what the test compares with.
        if not isinstance(value, (list, tuple, dict, set, str)):
            for index, data in answer.get("changed", []):
                self.changes.append((positional[index], data))
        return value

    def settle(self) -> None:
        """Update the arguments. Called after each statement: within it they are as the test wrote them."""
        changes, self.changes = self.changes, []
        for argument, data in changes:
            try:
                content = plain.decode(data, self.get_remote)
            except plain.NotPlain as malformed:
                self.stop(FAILED, f"a malformed answer: {malformed}")
            if type(content) is not type(argument):
                self.stop(FAILED, "a malformed answer: an argument changed its type")
            if isinstance(argument, list):
                argument[:] = content
            else:
                argument.clear()
                argument.update(content)

    def get_name(self, name: str) -> Any:
        """The value of one of the program's global names.

        Raises:
            KeyError: the program does not define it.
        """
        answer = self.exchange("name", (name,))
        if "missing" in answer:
            raise KeyError(name)
        self.used = True
        return self.make_exception(answer["exception"]) if "exception" in answer else answer.get("value")

    def get_remote(self, number: Any) -> Remote:
        if type(number) is not int:
            raise plain.NotPlain("a handle without a number")
        return self.remotes.setdefault(number, Remote(self, number))

    def get_number(self, value: Any) -> int:
        if type(value) is Remote:
            return value._number
        raise plain.NotPlain(f"{type(value).__name__} of the test")

    def make_exception(self, ancestors: list[str]) -> type[Exception]:
        """The built-in exception of that name, or a new subclass of its nearest built-in ancestor."""
        name = str(ancestors[0])
        if name not in self.exceptions:
            known = (getattr(builtins, str(ancestor), None) for ancestor in ancestors)
            base = next((kind for kind in known if isinstance(kind, type) and issubclass(kind, Exception)), Exception)
            # An exception that takes more arguments than a text cannot be made here.
            base = ValueError if issubclass(base, UnicodeError) else base
            self.exceptions[name] = base if base.__name__ == name else type(name, (base,), {})
        return self.exceptions[name]


class Names(dict):
    """A test's built-ins; any other name is the program's."""

    def __init__(self, connection: Connection, taken: set[str]):
        super().__init__({name: value for name, value in vars(builtins).items() if name not in taken})
        self.connection = connection

    def __missing__(self, name: str) -> Any:
        try:
            return self.connection.get_name(name)
        except KeyError:
            if hasattr(builtins, name):
                return getattr(builtins, name)
            raise


class _SettleAfterStatements(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> Any:
        self.generic_visit(node)
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr)) and not docstring:
            call = ast.parse("__settle__()").body[0]
            return [node, ast.copy_location(ast.fix_missing_locations(call), node)]
        return node


def find_used_names(tree: ast.AST) -> set[str]:
    """Names that the code loads but never binds."""
    loaded, bound = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            bound |= _public_names(node.module or "")
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return loaded - bound


def _public_names(module: str) -> set[str]:
    try:
        found = importlib.import_module(module)
    except Exception:  # the test will fail at its import
        return set()
    return set(getattr(found, "__all__", [name for name in vars(found) if not name.startswith("_")]))


class Sources:
    """The program's names (`free`) that each expression of a test depends on, whatever the order of statements.

    A program must not provide its own judge: if `isclose` is the program's too, `isclose(f(2), 4)` passes for any f.
    So no condition of a test may depend on two of its names. An object of a class (a name with a capital, except
    `Solution`) that is only passed to the function under test, as in `height(Node(1)) == 1`, is an argument and does
    not count.
    """

    def __init__(self, tree: ast.AST, free: set[str]):
        self.of: dict[str, set[str]] = {name: {name} for name in free}
        self.free = free
        self.functions = {
            node.name: [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
        }
        before = -1
        while before != (before := sum(map(len, self.of.values()))):
            for node in ast.walk(tree):
                self._follow(node)

    def _follow(self, node: ast.AST) -> None:
        """Pass dependencies on from values to the names that they are bound to, by one step."""
        if isinstance(node, ast.Assign):
            self._flow(node.value, *node.targets)
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value:
            self._flow(node.value, node.target)
        elif isinstance(node, (ast.For, ast.comprehension)):
            self._flow(node.iter, node.target)
        elif isinstance(node, ast.withitem) and node.optional_vars:
            self._flow(node.context_expr, node.optional_vars)
        elif isinstance(node, ast.FunctionDef):
            for returned in ast.walk(node):
                if isinstance(returned, (ast.Return, ast.Yield)) and returned.value:
                    self._add(node.name, self.find_drawn(returned.value))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):  # it may change its arguments
            made = node.value
            self._flow(made, *made.args, *([made.func.value] if isinstance(made.func, ast.Attribute) else []))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = self.functions.get(node.func.id, [])
            for name, argument in zip(names, node.args, strict=False):
                self._add(name, self.find_drawn(argument))
            for word in node.keywords:
                if word.arg in names:
                    self._add(word.arg, self.find_drawn(word.value))

    def _flow(self, value: ast.AST, *targets: ast.AST) -> None:
        drawn = self.find_drawn(value)
        for target in targets:
            for node in ast.walk(target):
                if isinstance(node, ast.Name):
                    self._add(node.id, drawn)

    def _add(self, name: str, drawn: set[str]) -> None:
        if name not in self.free and drawn:
            self.of.setdefault(name, set()).update(drawn)

    def find_drawn(self, node: ast.AST, given: bool = False) -> set[str]:
        """The program's names that a value depends on, without its classes if the value is `given` to the program.

        A class with a point after its name is one whose object has been asked for something.
        """
        if isinstance(node, ast.Name):
            found = self.of.get(node.id, set())
            return {name for name in found if not (given and _is_class(name))}
        if isinstance(node, ast.Attribute):
            return {f"{name}." if _is_class(name) else name for name in self.find_drawn(node.value)}
        if isinstance(node, ast.Call):
            found = self.find_drawn(node.func)
            made = {name for name in found if not (given and _is_class(name))}
            parts = [*node.args, *node.keywords]
            return made.union(*(self.find_drawn(part, given or bool(found)) for part in parts))
        return set().union(*(self.find_drawn(part, given) for part in ast.iter_child_nodes(node)))

    def find_own_checkers(self, tree: ast.AST) -> set[str]:
        """Names of the program that one condition depends on together; empty if no condition depends on two."""
        for node in ast.walk(tree):
            if isinstance(node, (ast.Assert, ast.If, ast.While, ast.IfExp)):
                decided = node.test
            elif isinstance(node, ast.Expr) and not self._calls_own_function(node.value):
                decided = node.value
            else:
                continue
            found = {name.rstrip(".") for name in self.find_drawn(decided)}
            if len(found) > 1:
                return found
        return set()

    def _calls_own_function(self, node: ast.AST) -> bool:
        """True for a call of a function of the test, such as `check`, which has its conditions inside."""
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.functions


def _is_class(name: str) -> bool:
    return name[:1].isupper() and name != "Solution" and not name.endswith(".")


def find_shadowed_builtins(tree: ast.AST) -> set[str]:
    """Names of built-ins that are functions of the program in this test, as in `assert sum(10, 15) == 25`.

    If the test uses a name that must be the program's, its built-ins are Python's: `abs(f(x) - 1) < 1e-6` must not ask
    the program for `abs`. Otherwise its only built-in is the program's.

    Raises:
        ValueError: it uses several.
    """
    used = find_used_names(tree)
    if used - set(dir(builtins)) - set(LIBRARY) - set(MODULES):
        return set()
    checked = {
        argument.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "check"
        for argument in node.args
        if isinstance(argument, ast.Name)
    }
    candidates = checked & used or {name for name in used if not name.endswith("Error")} - {"print"}
    if len(candidates) > 1:
        raise ValueError(f"the test uses only names of built-ins, and it is not clear which is the program's: {used}")
    return candidates


def run_test(source: str, requests: int, answers: int) -> tuple[str, str]:
    """Run test code to its end.

    Returns:
        A status and its reason: passed; failed; unknown if the code cannot decide; ended if the program did.
    """
    connection = Connection(requests, answers)
    try:
        tree = ast.parse(source, "<test>")
        taken = find_shadowed_builtins(tree)
        free = find_used_names(tree) - (set(dir(builtins)) | set(LIBRARY) | set(MODULES)) | taken
        own = Sources(tree, free).find_own_checkers(tree)
        if own:
            return UNKNOWN, f"the test asks the program for its own checker (one of {', '.join(sorted(own))})"
        code = compile(ast.fix_missing_locations(_SettleAfterStatements().visit(tree)), "<test>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return UNKNOWN, f"the test cannot be used: {error}"
    names = Names(connection, taken)
    known = {name: value for name, value in (LIBRARY | MODULES).items() if name not in taken}
    names.update(known)
    try:
        exec(code, {"__builtins__": names, "__name__": "test", "__settle__": connection.settle})
    except BaseException as error:
        if connection.verdict is None:
            connection.verdict = FAILED, _describe_failure(error, source)
    if connection.verdict:
        return connection.verdict
    if not connection.used:
        return UNKNOWN, "the test never uses the program"
    return PASSED, ""


def _describe_failure(error: BaseException, source: str) -> str:
    """`AssertionError in line 3: assert f(1) == 2`."""
    lines = source.splitlines()
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    text = f": {error}" if str(error) else ""
    line = lines[numbers[-1] - 1].strip() if numbers and numbers[-1] <= len(lines) else ""
    return f"{type(error).__name__}{text[:200]} in the test's line {numbers[-1] if numbers else '?'}: {line[:200]}"
