"""Programs built around a program: for call tests and assert tests where only whole programs can be run."""

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


def python_calls(program: Program) -> Program:
    """Reads calls as JSON from stdin and prints a marked line of JSON for each answer."""
    source = inspect.getsource(plain)
    return Program(f"{source}\n{PYTHON_CALLS}\n_run({json.dumps(program.source)})\n")


def javascript_calls(program: Program) -> Program:
    return Program(program.source + JAVASCRIPT_CALLS, "javascript")


def whole_python(program: Program, test: AssertTest, secret: str) -> Program:
    return Program(f"{program.source}\n\n{test.helpers}\n{test.source}\n\nprint({secret!r})\n")


def whole_cpp(program: Program, test: AssertTest, secret: str) -> Program:
    """The tests' `main` gets another name and is called by one that then prints what was on stdin: the secret.

    It is read before anything of the program runs, and an assertion that does not hold ends the process by itself.
    Still forgeable by a program that returns objects which equal everything, or that searches its own memory.
    """
    # A test in MultiPL-E's form begins with the brace that closes the program's function.
    closing, rest = ("}\n", test.source.lstrip()[1:]) if test.source.lstrip().startswith("}") else ("", test.source)
    own = f"open_r1_{secrets.token_hex(8)}"  # a name that no program can know beforehand
    return Program(
        f"#include <cassert>\n#include <cstdio>\n#include <unistd.h>\nnamespace {own} {{\n"
        "static char secret[64];\nstatic ssize_t length;\n"
        "__attribute__((constructor(101))) static void take() { length = ::read(0, secret, sizeof secret); }\n"
        "static void give() { if (::write(1, secret, length) != length) ::_exit(1); }\n"
        "static void require(bool holds, const char* text) {\n"
        '  if (!holds) { ::dprintf(2, "Assertion failed: %s\\n", text); ::_exit(134); }\n}\n}\n'
        f"{program.source}\n{closing}"
        # Our own, whatever the program made of it; assert.h, which the tests may include again, is not read twice so.
        "#undef NDEBUG\n#include <assert.h>\n#undef assert\n"
        f"#define assert(...) {own}::require(static_cast<bool>(__VA_ARGS__), #__VA_ARGS__)\n"
        # Only `main` may end without a return; unoptimised, so that another function may too.
        '#define main __attribute__((optimize("O0"))) tests_of_the_program\n'
        f"{_without_assert_h(rest)}\n#undef main\nint main() {{ tests_of_the_program(); {own}::give(); return 0; }}\n",
        "cpp",
    )


def _without_assert_h(source: str) -> str:
    return re.sub(r"^[ \t]*#[ \t]*include[ \t]*<(?:cassert|assert\.h)>", "", source, flags=re.MULTILINE)


def whole_javascript(program: Program, test: AssertTest, secret: str) -> Program:
    """What ends the tests and what they assert by is taken before the program runs; the secret is read from stdin.

    Still forgeable by a program that reads its own source for the name of the function that prints the secret.
    """
    own = f"open_r1_{secrets.token_hex(8)}"  # a name that no program can know beforehand
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


CALLS: dict[Language, Callable[[Program], Program]] = {"python": python_calls, "javascript": javascript_calls}
WHOLE: dict[Language, Callable[[Program, AssertTest, str], Program]] = {
    "python": whole_python,
    "cpp": whole_cpp,
    "javascript": whole_javascript,
}
