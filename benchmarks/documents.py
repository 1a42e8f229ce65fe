"""Fill the figures of the documents from the stored results.

    python benchmarks/documents.py [--check]

A figure stands between two comments that a reader does not see. The first names a file of `benchmarks/results` and a
format of `str.format`, whose fields are the keys of the file and `name`, `command`, `commit`, `date` and `hardware`:

    the accuracy is <!-- figure: tiny_r1_zero {seeds[0][after][pass@1]:.1%} -->97.3%<!-- /figure -->

`NAME.KEY` applies the format to each item of a list, and keeps the head of a table. `*` makes a row, with its origin,
from each line `NAME | label | format`:

    <!-- figure: tiny_r1_zero.seeds
    | {seed} | {after[pass@1]:.1%} |
    -->
    | seed | pass@1 |
    |---|---|
    | 0 | 97.3% |
    <!-- /figure -->

A result that depends on a recipe has `recipe` and its `fingerprint`. If the recipe has another fingerprint today, the
figure gets the words "at commit 1234567", unless its format shows the commit. `--check` writes nothing and exits with
1 if a document differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from record import RESULTS

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md", "benchmarks/README.md", "recipes/README.md", "recipes/PIPELINES.md", "recipes/DATA.md",
    "recipes/EVALUATION.md", "slurm/README.md", "src/open_r1/rewards/README.md",
)  # fmt: skip
FIGURE = re.compile(
    r"<!-- figure: (?P<name>[\w*]+)(?:\.(?P<key>\w+))?(?P<format>\s.*?)-->(?P<shown>.*?)<!-- /figure -->", re.DOTALL
)
HEAD = re.compile(r"\A.*?^\|[-|: ]+\|\n", re.DOTALL | re.MULTILINE)


def fingerprint(recipe: str) -> str:
    """Digest of what a recipe or pipeline computes and of the problems that it is measured on.

    Recipes that it starts from are included. The code is not: it changes with every commit.
    """
    from open_r1.config.defaults import select_result_keys
    from open_r1.pipeline.fingerprint import normalize_numbers

    digest = hashlib.sha256()
    for given in _resolved(recipe):
        digest.update(json.dumps(normalize_numbers(select_result_keys(given)), sort_keys=True, default=str).encode())
        evaluations = [given.get("evaluation") or {}, *(given.get("benchmarks") or [])]
        for source in (source for evaluation in evaluations for source in evaluation.get("datasets", [])):
            digest.update(_rows(json.dumps(source)))
    return digest.hexdigest()[:12]


def _resolved(recipe: str) -> Iterator[dict[str, Any]]:
    """The keys of a recipe and of those it starts from, or of the stages of a pipeline."""
    from open_r1.config.loading import resolve_recipe
    from open_r1.config.recipe import is_recipe
    from open_r1.pipeline import graph

    if graph.is_pipeline(recipe):
        for stage in graph.read_pipeline(Path(recipe)).stages:
            yield resolve_recipe(Path(stage.recipe), stage.overrides)[1] | {"wires": stage.wires}
        return
    given = resolve_recipe(Path(recipe), {})[1]
    yield given
    sources = [source["path"] if isinstance(source, dict) else source for source in given.get("datasets") or []]
    for path in [given.get("base_recipe"), *sources]:
        if path and is_recipe(path):
            yield from _resolved(path)


@cache
def _rows(source: str) -> bytes:
    from open_r1.config.schema import DatasetConfig
    from open_r1.data.sources import load_source

    given = json.loads(source)
    rows = load_source(DatasetConfig(**given) if isinstance(given, dict) else DatasetConfig(given), 0)
    return json.dumps(list(rows), sort_keys=True, default=str).encode()


@cache
def result(name: str) -> dict[str, Any]:
    """A stored result with its `name` and, in words, its `command`, `commit`, `date` and `hardware`.

    Raises:
        SystemExit: there is no such file, or it does not say where it comes from.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        sys.exit(f"{path}: there is no such result; a marker names it")
    content = json.loads(path.read_text(encoding="utf-8"))
    origin = content.get("machine", {})
    missing = [key for key in ("command", "commit", "date", "cores") if key not in origin]
    if missing:
        sys.exit(f"{path}: `machine` lacks {', '.join(missing)}")
    hardware = ", ".join(origin.get("gpus", [])) or f"{origin['cores']} {'shared ' * ('shared' in origin)}CPU cores"
    return content | {
        "name": name, "command": origin["command"], "commit": origin["commit"][:7], "date": origin["date"][:10],
        "hardware": hardware,
    }  # fmt: skip


@cache
def is_current(name: str) -> bool:
    """Whether the recipe of a result still has its fingerprint; True for a result that has none."""
    content = result(name)
    return "fingerprint" not in content or content["fingerprint"] == fingerprint(content["recipe"])


def filled(text: str, document: str) -> str:
    """A document with the figures of today's results."""
    if text.count("<!-- figure:") != len(FIGURE.findall(text)):
        sys.exit(f"{document}: a `<!-- figure: NAME FORMAT -->` is not closed by `<!-- /figure -->`")

    def shown(found: re.Match[str]) -> str:
        block = "\n" in found["shown"]
        if not block and text[: found.start()][-1:] in ("", "\n"):
            sys.exit(f"{document}: the line begins with {found[0][:60]}, which makes Markdown show all of it as it is")
        return found[0].removesuffix(f"{found['shown']}<!-- /figure -->") + f"{_value(found, block)}<!-- /figure -->"

    return FIGURE.sub(shown, text)


def _value(found: re.Match[str], block: bool) -> str:
    name, key, form = found["name"], found["key"], found["format"].strip()
    if name == "*":
        rows = [_row(*line.split(" | ", 2)) for line in form.splitlines()]
        return _head(found["shown"]) + "\n".join(rows) + "\n"
    content = result(name)
    lines = [_formatted(content | item, form) for item in (content.get(key, []) if key else [{}])]
    mark = "" if "{commit" in form or is_current(name) else f"at commit {content['commit']}"
    if not block:
        return f"{lines[0]} ({mark})" if mark else lines[0]
    head = _head(found["shown"]) if key else "\n"
    return head + "\n".join(lines) + "\n" + (f"\nMeasured {mark}.\n" if mark else "")


def _row(name: str, label: str, form: str) -> str:
    of = result(name)
    origin = f"`{of['command']}` | {of['commit']} | {of['date']} | {of['hardware']} | [{name}](results/{name}.json)"
    return f"| {_formatted(of, label)} | {_formatted(of, form)} | {origin} |"


def _formatted(content: dict[str, Any], form: str) -> str:
    try:
        return form.format(**content)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        sys.exit(f"{content['name']}.json does not fit the format {form!r} of a marker: {error!r}")


def _head(shown: str) -> str:
    """A table through the line below its titles."""
    head = HEAD.match(shown)
    return head[0] if head else "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    differing = []
    for document in DOCUMENTS:
        path = ROOT / document
        text = path.read_text(encoding="utf-8")
        if (new := filled(text, document)) != text:
            differing.append(document)
            if not check:
                path.write_text(new, encoding="utf-8")
    print("\n".join(f"{document}: {'differs from its results' if check else 'filled'}" for document in differing))
    sys.exit(bool(check and differing))


if __name__ == "__main__":
    main()
