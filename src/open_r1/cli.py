"""`open-r1 <verb>`. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import RecipeError

if TYPE_CHECKING:
    from .run.run import Run

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_RECIPE = "recipes/tiny/grpo/r1_zero.yaml"


def main() -> None:
    # One's own rewards, named `module:function`, may lie beside the recipe's command; `python -m` looks there too.
    sys.path.append(os.getcwd())
    # Other words of these are the recipe's own keys, so argparse must not look into them.
    words = sys.argv[1:]
    takes_keys = {
        "train": _train, "submit": _submit, "check": _check, "estimate": _estimate, "evaluate": _evaluate,
        "serve": _serve,
    }  # fmt: skip
    if words and words[0] in takes_keys and not {"-h", "--help"} & set(words[1:]):
        takes_keys[words[0]](words[1:])
        return
    parser = _parser()
    arguments, more = parser.parse_known_args(words)
    if more and arguments.verb != "judge":
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    arguments.more = more
    try:
        arguments.run(arguments)
    except RecipeError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    """All verbs; those that take a recipe's keys are here for their help alone."""
    parser = argparse.ArgumentParser(prog="open-r1", description="Reproduce DeepSeek-R1: recipes on top of TRL.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_verbs_with_keys(verbs)
    _add_verbs_with_options(verbs)
    return parser


def _add_verbs_with_keys(verbs: Verbs) -> None:
    verbs.add_parser(
        "train",
        help="run a recipe",
        usage="open-r1 train [RECIPE] [--processes N] [--key value ...]\n"
        "       open-r1 train PIPELINE [--dry-run] [--from STAGE ...] [--only STAGE ...] [--STAGE.key value ...]",
        description=f"Run a recipe of any task (default: {DEFAULT_RECIPE}), or a pipeline of many. Any key can be "
        "overridden; a pipeline's by the name of its stage. Of a pipeline: --dry-run shows what would run and why, "
        "--only runs these stages, --from these and what depends on them, --overwrite runs them again though they are "
        "there; --seeds 0 1, --jobs 2, --output_dir and --toy are of all of it.",
        epilog="For example: --seed 7   --datasets.0.path rows.jsonl   --lora_target_modules q_proj v_proj   --toy",
    )

    verbs.add_parser(
        "submit",
        help="run a recipe or a pipeline by Slurm",
        usage="open-r1 submit RECIPE [--dry-run] [--test-only] [--array N] [--processes N] [--slurm.OPTION value ...] "
        "[--key value ...]\n"
        "       open-r1 submit PIPELINE [--dry-run] [--array N] [--one-job] [--STAGE.key value ...]",
        description="Ask Slurm for the nodes, GPUs and time that a recipe takes by its keys and its estimate. "
        "--dry-run shows the sbatch line and the script, --test-only asks Slurm when it would start; --slurm.time, "
        "--slurm.partition and any other option of sbatch's stand whatever the recipe says; --array has N jobs share "
        "sampling or evaluation. Of a pipeline every stage is a job after those it needs, or all of it is --one-job.",
        epilog="For example: open-r1 submit recipes/Qwen2.5-7B/grpo/r1_zero.yaml --slurm.partition gpu --dry-run",
    )

    verbs.add_parser(
        "check",
        help="try a recipe's data, prompt and rewards before it runs",
        usage="open-r1 check [RECIPE] [--key value ...]",
        description="Load a recipe's data, show the prompt as the model reads it, and try every reward on gold "
        "answers, corrupted ones, and empty and cut-off completions. Exit code 1 if training would be pointless.",
    )

    verbs.add_parser(
        "estimate",
        help="tell what memory and time a recipe takes, and what else would fit",
        usage="open-r1 estimate RECIPE|PIPELINE [RECIPE ...] [--gpus 8xH100] [--price N] [--rows N] [--mean_tokens N] "
        "[--utilisation 0.35] [--key value ...]",
        description="From the model's configuration alone: memory of each GPU part by part, tokens and FLOPs of a "
        "step, time and GPU-hours by the rates that it states, and alternatives by their cost. It needs no GPU and no "
        "weights.",
        epilog="For example: open-r1 estimate recipes/Qwen2.5-7B/grpo/r1_zero.yaml --gpus 8xA100 --price 2",
    )

    verbs.add_parser(
        "evaluate",
        help="measure a model on benchmarks",
        usage="open-r1 evaluate MODEL BENCHMARK [BENCHMARK ...] [--processes N] [--key value ...]",
        description="Sample, judge and tell with intervals, each benchmark by its own protocol. MODEL is a hub name, "
        "a folder, a file of completions, or a run directory, whose prompt is then taken as well. BENCHMARK is a name "
        "or a YAML file.",
        epilog="For example: open-r1 evaluate runs/tiny/grpo/r1_zero tiny   --k 4   --engine.name vllm   --rejudge",
    )

    verbs.add_parser(
        "serve",
        help="serve a model by vLLM, for judges and for sampling",
        usage="open-r1 serve MODEL [--deadline SECONDS] [any option of vllm serve ...]",
        description="Start vLLM's OpenAI-compatible server on a free port of this machine, with all its GPUs, say "
        "where once it is healthy, and end when it does. MODEL is a hub name, a folder, or a run directory.",
    )


def _add_verbs_with_options(verbs: Verbs) -> None:
    compare = verbs.add_parser(
        "compare",
        help="compare evaluations, or a run's curves with a reference",
        description="Paired differences of two or more evaluations on the same problems, with intervals and a test; "
        "or, with --reference, one run's curves beside stored ones. A run is its directory, or DIRECTORY:NAME for one "
        "of its evaluations (runs/tiny/grpo/r1_zero:before).",
    )
    compare.add_argument("runs", nargs="+", metavar="RUN")
    compare.add_argument("--reference", help="a name in recipes/reference, or a file")
    compare.add_argument("--metric", default="pass@1", help="what is tested (default: pass@1)")
    compare.add_argument("--allow", nargs="+", default=[], help="what may differ: grader, prompt, k, problems, ...")
    compare.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    compare.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    compare.add_argument("--output", help="a .json or .html file for all of it")
    compare.set_defaults(run=_compare)

    reference = verbs.add_parser(
        "reference",
        help="make a reference curve of finished runs",
        description="Mean and band of the curves of several finished runs of one recipe (other seeds), as a file that "
        "`open-r1 compare RUN --reference FILE` reads.",
    )
    reference.add_argument("runs", nargs="+", metavar="RUN")
    reference.add_argument("--output", required=True)
    reference.set_defaults(run=_reference)

    judge = verbs.add_parser(
        "judge",
        help="judge stored answers as in training",
        usage="open-r1 judge REWARD --input rows.jsonl --output verdicts.jsonl [--parameter value ...]",
        description="Judge every row of a jsonl or parquet file, with its `completion` (or a bare `answer`) and the "
        "reward's columns: `solution` for accuracy, `tests` for code. Rows come back in order, with verdict, reason "
        "and seconds.",
    )
    judge.add_argument("reward")
    judge.add_argument("--input", required=True)
    judge.add_argument("--output", required=True)
    judge.set_defaults(run=_judge)

    status = verbs.add_parser(
        "status",
        help="tell how a run or a pipeline stands, also by Slurm",
        description="Of a run its step, figures and job; of a pipeline a line for each stage. Why a job waits, where "
        "it runs, and what failed first.",
    )
    status.add_argument("run_dir", help="of a run or a pipeline, or the id of a job")
    status.set_defaults(run=_status)

    lineage = verbs.add_parser(
        "lineage",
        help="tell what a run is made of",
        description="Every recipe, seed and commit that a run, its model or its dataset comes from.",
    )
    lineage.add_argument("run_dir")
    lineage.set_defaults(run=_lineage)

    report = verbs.add_parser("report", help="write the report of a run or a pipeline again")
    report.add_argument("run_dir")
    report.set_defaults(run=_report)


def _train(words: list[str]) -> None:
    recipe, overrides = _recipe(words)
    try:
        from .pipeline import graph

        if not graph.is_pipeline(recipe):
            return _run(lambda: (recipe, overrides))
        _before_libraries()
        from .pipeline import command

        sys.exit(command.run_pipeline(recipe, overrides))
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)


def _submit(words: list[str]) -> None:
    from .system import library_log

    library_log.hold_messages()
    _go_offline_if_needed()
    from .slurm import submit

    library_log.release_messages(None)
    if not words or words[0].startswith("--"):
        sys.exit("error: which recipe? open-r1 submit recipes/Qwen2.5-7B/grpo/r1_zero.yaml")
    if "--dry-run" in words:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    try:
        submit.submit(words[0], words[1:])
    except RecipeError as error:
        sys.exit(f"error: {error}")


def _serve(words: list[str]) -> None:
    if not words or words[0].startswith("--"):
        sys.exit("error: which model? open-r1 serve deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
    from .errors import Unavailable
    from .launch import vllm_server
    from .system import failures

    try:
        sys.exit(128 + vllm_server.serve_model(words[0], words[1:]))
    except (RecipeError, Unavailable) as error:
        failures.record_error(error)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, RecipeError) else Unavailable.CODE)


def _status(arguments: argparse.Namespace) -> None:
    from .slurm import status as slurm_status

    print(slurm_status.describe_run(arguments.run_dir))


def _evaluate(words: list[str]) -> None:
    named = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    benchmarks = [name for word in named[1:] for name in word.split(",") if name]
    if not benchmarks:
        sys.exit("error: which model on which benchmarks? open-r1 evaluate MODEL aime24 math500")

    def planned() -> tuple[str, list[str]]:
        from .launch import local

        return local.plan_evaluation(named[0], benchmarks, words[len(named) :])

    _run(planned)


def _run(planned: Callable[[], tuple[str, list[str]]]) -> None:
    """Run the recipe with the overrides that `planned` gives, once the libraries may be loaded."""
    _before_libraries()
    if sys.stderr.isatty():
        print("loading libraries ...", file=sys.stderr)
    from .launch import local
    from .run import exit

    def task() -> Run | None:
        recipe, overrides = planned()
        overrides, processes = _without_processes(overrides)
        return local.run_recipe(recipe, overrides, processes)

    exit.run_guarded(task)


def _before_libraries() -> None:
    """Settings that are read when the libraries load, and what they then have to say."""
    # Tokenizers would warn about every fork. OpenMP's threads wait for each other by spinning: beside another busy
    # process steps took 15 times as long; this bound costs a tenth when alone.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from .system import library_log

    library_log.hold_messages()


def _without_processes(overrides: list[str]) -> tuple[list[str], int | None]:
    if "--processes" not in overrides:
        return overrides, None
    at = overrides.index("--processes")
    if not overrides[at + 1 : at + 2] or not overrides[at + 1].isdigit() or overrides[at + 1] == "0":
        raise RecipeError("--processes takes a number of processes, 1 or more")
    return overrides[:at] + overrides[at + 2 :], int(overrides[at + 1])


def _recipe(words: list[str]) -> tuple[str, list[str]]:
    """The recipe and its overrides; without a recipe the miniature's."""
    return (words[0], words[1:]) if words and not words[0].startswith("--") else (DEFAULT_RECIPE, words)


def _check(words: list[str]) -> None:
    from .system import library_log

    library_log.hold_messages()
    _go_offline_if_needed()
    from .config.loading import load_recipe
    from .training import preflight

    library_log.release_messages(None)
    path, overrides = _recipe(words)
    from .pipeline import graph

    if graph.is_pipeline(path):
        return _train([path, *overrides, "--dry-run"])
    try:
        findings = preflight.check_recipe(load_recipe(path, overrides, planned=True))
    except RecipeError as error:
        sys.exit(f"error: {error}")
    print("\n".join(findings.table))
    for text in findings.said:
        print(f"\n{text}")
    for kind, told in (("warning", findings.warnings), ("pointless", findings.fatal)):
        for text in told:
            print(f"\n{kind}: {text}")
    if findings.fatal:
        sys.exit(1)
    print(f"\n{path} can be run" + (", but see the warnings" if findings.warnings else ""))


def _estimate(words: list[str]) -> None:
    from .system import library_log

    library_log.hold_messages()
    _go_offline_if_needed()
    from pathlib import Path

    from .config.overrides import parse_overrides
    from .estimate import command, estimate
    from .pipeline import estimates, graph

    library_log.release_messages(None)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    path, overrides = _recipe(words)
    try:
        if graph.is_pipeline(path):
            asked, changes = estimate.parse_options(parse_overrides(overrides))
            print(estimates.format_estimates(estimates.estimate_stages(Path(path), changes, asked)))
        else:
            for part in command.report_estimates([path, *overrides]):
                print(part, flush=True)
    except RecipeError as error:
        sys.exit(f"error: {error}")


def _go_offline_if_needed() -> None:
    """Without a network the hub's client retries for minutes; a check should say at once what it cannot have."""
    if "HF_HUB_OFFLINE" in os.environ:
        return
    import socket
    import threading
    import urllib.parse

    host = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    reached: list[bool] = []

    def reach() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, 443), timeout=3).close()
            reached.append(True)

    # A name server that is not there takes its own time.
    attempt = threading.Thread(target=reach, daemon=True)
    attempt.start()
    attempt.join(4)
    if not reached:
        os.environ["HF_HUB_OFFLINE"] = "1"
        print(f"{host} cannot be reached: only local files are checked", file=sys.stderr)


def _judge(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from .config.overrides import parse_overrides
    from .rewards import judge_file

    summary = judge_file.judge_file(
        arguments.reward, Path(arguments.input), Path(arguments.output), parse_overrides(arguments.more)
    )
    print(", ".join(f"{count:g} {name}" for name, count in summary.items()))


def _compare(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    if arguments.reference is None:
        from .evaluation import compare as evaluation_compare
        from .report import comparison

        if arguments.output:
            comparison.check_output(Path(arguments.output))
        given = {
            "metric": arguments.metric,
            "allow": arguments.allow,
            "level": arguments.level,
            "seed": arguments.seed,
        }
        compared = evaluation_compare.compare_runs(arguments.runs, **given)
        print(comparison.format_comparison(compared))
        if arguments.output:
            comparison.write_comparison(compared, Path(arguments.output))
        return
    from .evaluation.reference import curves
    from .report import run_report

    if arguments.output:
        raise RecipeError("--output: is of comparisons between runs; beside a reference the run's report has it all")
    if len(arguments.runs) != 1:
        raise RecipeError("--reference: one run is set beside a reference; compare several runs without it")
    run_dir = Path(arguments.runs[0])
    placed = curves.place_run(run_dir, arguments.reference)
    print(curves.format_placement(placed))
    curves.save_placement(placed, run_dir)
    print(run_report.write_report(run_dir))


def _reference(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from .evaluation.reference import curves

    curves.write_reference(curves.build_reference([Path(run) for run in arguments.runs]), Path(arguments.output))
    print(arguments.output)


def _lineage(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from .run import lineage as run_lineage

    print(run_lineage.format_lineage(Path(arguments.run_dir)))


def _report(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from .pipeline import command
    from .report import run_report

    directory = Path(arguments.run_dir)
    write = command.write_report if (directory / command.WRITTEN).is_file() else run_report.write_report
    print(write(directory))


if __name__ == "__main__":
    main()
