"""Programs built around a program, for call tests and assert tests where only whole programs can run."""

from __future__ import annotations

import inspect
import json
import re
import secrets
from collections.abc import Callable

from .cases import AssertTest, Language, Program
from .guest import plain

PYTHON_CALLS = """
def _run(source):
    import sys
    request = json.loads(sys.stdin.read())
    namespace = {"__name__": "program"}
    exec(compile(source, "<program>", "exec", dont_inherit=True), namespace)
    for call in request["calls"]:
        answer = answer_call(namespace, call)
        sys.stdout.flush()
        print("\\n" + request["marker"] + answer, flush=True)
"""

JAVASCRIPT_CALLS = """
;function open_r1_lookup() { return eval(arguments[0]); }  // no name here hides one of the program's
(() => {
  const request = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const decode = (data) => {
    if (data === null || typeof data !== "object") return data;
    const [tag, content] = Object.entries(data)[0];
    if (tag === "list" || tag === "tuple") return content.map(decode);
    if (tag === "set") return new Set(content.map(decode));
    if (tag === "dict") return Object.fromEntries(content.map(([key, value]) => [decode(key), decode(value)]));
    if (tag === "int") return BigInt(content);
    if (tag === "float") return Number(content.replace("inf", "Infinity"));
    throw new TypeError("no JavaScript value for " + tag);
  };
  const encode = (value) => {
    if (value === undefined || value === null) return null;
    if (typeof value === "bigint") {
      return { int: (value < 0n ? "-0x" : "0x") + (value < 0n ? -value : value).toString(16) };
    }
    if (typeof value === "number" && !Number.isFinite(value)) {
      return { float: String(value).replace("Infinity", "inf").toLowerCase() };
    }
    if (Array.isArray(value)) return { list: value.map(encode) };
    if (value instanceof Set) return { set: [...value].map(encode) };
    if (value instanceof Map) return { dict: [...value].map(([key, item]) => [encode(key), encode(item)]) };
    if (typeof value === "function" || typeof value === "symbol") throw new TypeError("not plain data");
    if (typeof value === "object") return { dict: Object.entries(value).map(([key, item]) => [key, encode(item)]) };
    return value;
  };
  for (const call of request.calls) {
    let answer;
    try {
      if (decode(call.keywords) && Object.keys(decode(call.keywords)).length) {
        throw new TypeError("JavaScript has no keyword arguments");
      }
      const target = open_r1_lookup(call.function);
      answer = { value: encode(target(...decode(call.arguments))) };
    } catch (error) {
      answer = { raised: String(error && error.name), text: String(error && error.message).slice(0, 300) };
    }
    process.stdout.write("\\n" + request.marker + JSON.stringify(answer) + "\\n");
  }
})();
"""


def add_python_calls(program: Program) -> Program:
    """The program with code that reads calls (JSON) from stdin and prints a marked line of JSON for each answer."""
    source = inspect.getsource(plain)
    return Program(f"{source}\n{PYTHON_CALLS}\n_run({json.dumps(program.source)})\n")


def add_javascript_calls(program: Program) -> Program:
    return Program(program.source + JAVASCRIPT_CALLS, "javascript")


def join_python_test(program: Program, test: AssertTest, secret: str) -> Program:
    return Program(f"{program.source}\n\n{test.helpers}\n{test.source}\n\nprint({secret!r})\n")


def join_cpp_test(program: Program, test: AssertTest, secret: str) -> Program:
    """A program whose `main` calls the `main` of the tests and then prints the secret from stdin.

    The secret is read before any code of the program runs, and a failed assertion ends the process. A program can
    still forge its result: by objects that equal everything, or by a search of its memory.
    """
    # A test in MultiPL-E's form begins with the brace that closes the program's function.
    closing, rest = ("}\n", test.source.lstrip()[1:]) if test.source.lstrip().startswith("}") else ("", test.source)
    own = f"open_r1_{secrets.token_hex(8)}"  # a name that no program can know
    return Program(
        f"#include <cassert>\n#include <cstdio>\n#include <unistd.h>\nnamespace {own} {{\n"
        "static char secret[64];\nstatic ssize_t length;\n"
        "__attribute__((constructor(101))) static void take() { length = ::read(0, secret, sizeof secret); }\n"
        "static void give() { if (::write(1, secret, length) != length) ::_exit(1); }\n"
        "static void require(bool holds, const char* text) {\n"
        '  if (!holds) { ::dprintf(2, "Assertion failed: %s\\n", text); ::_exit(134); }\n}\n}\n'
        f"{program.source}\n{closing}"
        # Our `assert`, whatever the program defined. The tests must not include assert.h again, which would undo it.
        "#undef NDEBUG\n#include <assert.h>\n#undef assert\n"
        f"#define assert(...) {own}::require(static_cast<bool>(__VA_ARGS__), #__VA_ARGS__)\n"
        # Only `main` may end without a return; unoptimised, so that another function may too.
        '#define main __attribute__((optimize("O0"))) tests_of_the_program\n'
        f"{_remove_assert_h(rest)}\n#undef main\nint main() {{ tests_of_the_program(); {own}::give(); return 0; }}\n",
        "cpp",
    )


def _remove_assert_h(source: str) -> str:
    return re.sub(r"^[ \t]*#[ \t]*include[ \t]*<(?:cassert|assert\.h)>", "", source, flags=re.MULTILINE)


def join_javascript_test(program: Program, test: AssertTest, secret: str) -> Program:
    """A program that prints the secret from stdin after the tests; `assert` is frozen before the program runs.

    A program can still forge its result: by reading its source for the name of the function that prints the secret.
    """
    own = f"open_r1_{secrets.token_hex(8)}"  # a name that no program can know
    return Program(
        f"const {own} = ((load) => {{\n"
        '  const { readFileSync, writeSync } = load("fs"), assert = load("assert");\n'
        '  const secret = readFileSync(0, "utf8");\n'
        "  Object.freeze(assert.strict);\n  Object.freeze(assert);\n"
        "  const require = (name) =>\n"
        '    name === "assert" || name === "node:assert" ? assert : name.endsWith("assert/strict") ? assert.strict'
        " : load(name);\n"
        '  return Object.freeze({ require, give: () => writeSync(1, "\\n" + secret + "\\n") });\n'
        f"}})(require);\n{program.source}\n;{{ const require = {own}.require;\n{test.source}\n}}\n;{own}.give();\n",
        "javascript",
    )


CALLS: dict[Language, Callable[[Program], Program]] = {"python": add_python_calls, "javascript": add_javascript_calls}
WHOLE: dict[Language, Callable[[Program, AssertTest, str], Program]] = {
    "python": join_python_test,
    "cpp": join_cpp_test,
    "javascript": join_javascript_test,
}
