"""`open-r1 <verb>`. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import argparse
import os
import sys

DEFAULT_RECIPE = "recipes/tiny/grpo/r1_zero.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(prog="open-r1", description="Reproduce DeepSeek-R1: recipes on top of TRL.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verbs.add_parser(
        "train",
        help="run a recipe",
        usage="open-r1 train [RECIPE] [--processes N] [--key value ...]",
        description=f"Run a recipe (default: {DEFAULT_RECIPE}). Any of its keys can be overridden.",
        epilog="For example: --seed 7   --datasets.0.path rows.jsonl   --lora_target_modules q_proj v_proj   --toy",
    )

    report = verbs.add_parser("report", help="write the report of a run again")
    report.add_argument("run_dir")
    report.set_defaults(run=_report)

    # The words of `train` are the recipe's own keys, so argparse must not look into them.
    words = sys.argv[1:]
    if words[:1] == ["train"] and not {"-h", "--help"} & set(words[1:2]):
        _train(words[1:])
    else:
        arguments = parser.parse_args(words)
        arguments.run(arguments)


def _train(words: list[str]) -> None:
    # Both are read when the libraries load. Tokenizers would warn about every fork. OpenMP's threads wait for each
    # other by spinning: beside another busy process steps took 15 times as long; this bound costs a tenth when alone.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    recipe, overrides = (words[0], words[1:]) if words and not words[0].startswith("--") else (DEFAULT_RECIPE, words)
    processes = None
    if "--processes" in overrides:
        at = overrides.index("--processes")
        if not overrides[at + 1 : at + 2] or not overrides[at + 1].isdigit() or overrides[at + 1] == "0":
            sys.exit("error: --processes takes a number of processes, 1 or more")
        processes = int(overrides[at + 1])
        overrides = overrides[:at] + overrides[at + 2 :]
    from . import quiet

    quiet.hold()
    if sys.stderr.isatty():
        print("loading libraries ...", file=sys.stderr)
    from . import launch, run

    run.guarded(lambda: launch.train(recipe, overrides, processes))


def _report(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from . import report
    from .errors import RecipeError

    try:
        print(report.write(Path(arguments.run_dir)))
    except RecipeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
