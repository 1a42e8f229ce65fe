"""`open-r1 <verb>`. No heavy library is imported before a verb runs."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import RecipeError, Unavailable

if TYPE_CHECKING:
    from .run.run import Run

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_RECIPE = "recipes/tiny/grpo/r1_zero.yaml"
# Help of the verbs whose options are a recipe's keys, or those of vLLM.
VERBS_WITH_KEYS: dict[str, dict[str, str]] = {
    "train": {
        "help": "run a recipe",
        "usage": "open-r1 train [RECIPE] [--processes N] [--key value ...]\n"
        "       open-r1 train PIPELINE [--dry-run] [--from STAGE ...] [--only STAGE ...] [--STAGE.key value ...]",
        "description": f"Run a recipe of any task (default: {DEFAULT_RECIPE}), or a pipeline. Any key can be "
        "overridden, in a pipeline after the name of its stage. Options of a pipeline: --dry-run shows what would run "
        "and why; --only runs these stages; --from runs these and the stages that depend on them; --overwrite runs "
        "finished stages again; --seeds 0 1, --jobs 2, --output_dir and --toy apply to all stages.",
        "epilog": "For example: --seed 7   --datasets.0.path rows.jsonl   --lora_target_modules q_proj v_proj   --toy",
    },
    "submit": {
        "help": "run a recipe or a pipeline by Slurm",
        "usage": "open-r1 submit RECIPE [--dry-run] [--test-only] [--array N] [--processes N] "
        "[--slurm.OPTION value ...] [--key value ...]\n"
        "       open-r1 submit PIPELINE [--dry-run] [--array N] [--one-job] [--STAGE.key value ...]",
        "description": "Request from Slurm the nodes, GPUs and time that a recipe needs by its keys and its estimate. "
        "--dry-run shows the sbatch line and the script; --test-only asks Slurm when the job would start; "
        "--slurm.time, --slurm.partition and any other option of sbatch override the recipe; --array divides sampling "
        "or evaluation among N jobs. Each stage of a pipeline is a job that waits for the stages it needs; --one-job "
        "runs all stages in one job.",
        "epilog": "For example: open-r1 submit recipes/Qwen2.5-7B/grpo/r1_zero.yaml --slurm.partition gpu --dry-run",
    },
    "check": {
        "help": "try a recipe's data, prompt and rewards before it runs",
        "usage": "open-r1 check [RECIPE] [--key value ...]",
        "description": "Load a recipe's data, show the prompt as the model reads it, and try every reward on gold "
        "answers, corrupted ones, and empty and cut-off completions. Exit code 1 if training would be pointless.",
    },
    "estimate": {
        "help": "estimate the memory and time of a recipe, and of alternatives",
        "usage": "open-r1 estimate RECIPE|PIPELINE [RECIPE ...] [--gpus 8xH100] [--price N] [--rows N] "
        "[--mean_tokens N] [--utilisation 0.35] [--key value ...]",
        "description": "From the model's configuration alone: the memory of each GPU by its parts, the tokens and "
        "FLOPs of a step, time and GPU-hours by the rates shown, and alternatives by cost. Needs no GPU, no weights.",
        "epilog": "For example: open-r1 estimate recipes/Qwen2.5-7B/grpo/r1_zero.yaml --gpus 8xA100 --price 2",
    },
    "evaluate": {
        "help": "measure a model on benchmarks",
        "usage": "open-r1 evaluate MODEL BENCHMARK [BENCHMARK ...] [--processes N] [--key value ...]",
        "description": "Sample completions, judge them and report figures with intervals, each benchmark by its own "
        "protocol. MODEL is a hub name, a folder, a file of completions, or a run directory, whose prompt is then "
        "used. BENCHMARK is a name or a YAML file.",
        "epilog": "For example: open-r1 evaluate runs/tiny/grpo/r1_zero tiny   --k 4   --engine.name vllm   --rejudge",
    },
    "serve": {
        "help": "serve a model by vLLM, for judges and for sampling",
        "usage": "open-r1 serve MODEL [--deadline SECONDS] [any option of vllm serve ...]",
        "description": "Start vLLM's OpenAI-compatible server on a free port of this machine, with all its GPUs, "
        "print its address once it is healthy, and exit with it. MODEL is a hub name, a folder or a run directory.",
    },
}


def main() -> None:
    # Rewards of the user, named `module:function`, may lie in the working directory, as for `python -m`.
    sys.path.append(os.getcwd())
    # argparse must not read the options of these verbs.
    words = sys.argv[1:]
    takes_keys = {
        "train": _train, "submit": _submit, "check": _check, "estimate": _estimate, "evaluate": _evaluate,
        "serve": _serve,
    }  # fmt: skip
    try:
        if words and words[0] in takes_keys and not {"-h", "--help"} & set(words[1:]):
            return takes_keys[words[0]](words[1:])
        parser = _build_parser()
        arguments, more = parser.parse_known_args(words)
        if more and arguments.verb != "judge":
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        arguments.more = more
        arguments.run(arguments)
    except RecipeError as error:
        sys.exit(f"error: {error}")


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="open-r1", description="Reproduce DeepSeek-R1: recipes on top of TRL.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, texts in VERBS_WITH_KEYS.items():
        verbs.add_parser(verb, **texts)
    _add_verbs_with_options(verbs)
    return parser


def _add_verbs_with_options(verbs: Verbs) -> None:
    compare = verbs.add_parser(
        "compare",
        help="compare evaluations, or a run's curves with a reference",
        description="Paired differences of two or more evaluations on the same problems, with intervals and a test; "
        "or, with --reference, one run's curves and stored ones. A run is its directory, or DIRECTORY:NAME for one "
        "of its evaluations (runs/tiny/grpo/r1_zero:before).",
    )
    compare.add_argument("runs", nargs="+", metavar="RUN")
    compare.add_argument("--reference", help="a name in recipes/reference, or a file")
    compare.add_argument("--metric", default="pass@1", help="metric to test (default: pass@1)")
    compare.add_argument("--allow", nargs="+", default=[], help="may differ: grader, prompt, k, problems, ...")
    compare.add_argument("--level", type=float, default=0.95, help="confidence level of the intervals (default: 0.95)")
    compare.add_argument("--seed", type=int, default=0, help="seed of the resampling (default: 0)")
    compare.add_argument("--output", help="a .json or .html file for the whole comparison")
    compare.set_defaults(run=_compare)

    reference = verbs.add_parser(
        "reference",
        help="make a reference curve from finished runs",
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
        help="show the state of a run or a pipeline, also under Slurm",
        description="For a run: its step, figures and job; for a pipeline: a line for each stage. Also why a job "
        "waits, where it runs, and what failed first.",
    )
    status.add_argument("run_dir", help="directory of a run or a pipeline, or the id of a job")
    status.set_defaults(run=_status)

    lineage = verbs.add_parser(
        "lineage",
        help="show what a run was made from",
        description="Every recipe, seed and commit behind a run, its model or its dataset.",
    )
    lineage.add_argument("run_dir")
    lineage.set_defaults(run=_lineage)

    report = verbs.add_parser("report", help="write the report of a run or a pipeline again")
    report.add_argument("run_dir")
    report.set_defaults(run=_report)


def _train(words: list[str]) -> None:
    recipe, overrides = _split_recipe(words)
    try:
        from .pipeline import graph

        if not graph.is_pipeline(recipe):
            return _run(lambda: (recipe, overrides))
        _prepare_libraries()
        from .pipeline import command

        sys.exit(command.run_pipeline(recipe, overrides))
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command to continue", file=sys.stderr)
        sys.exit(130)


def _evaluate(words: list[str]) -> None:
    named = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    benchmarks = [name for word in named[1:] for name in word.split(",") if name]
    if not benchmarks:
        sys.exit("error: which model on which benchmarks? open-r1 evaluate MODEL aime24 math500")

    def plan() -> tuple[str, list[str]]:
        from .launch import local

        return local.plan_evaluation(named[0], benchmarks, words[len(named) :])

    _run(plan)


def _run(plan: Callable[[], tuple[str, list[str]]]) -> None:
    """Run the recipe and overrides that `plan` returns; it is called once the libraries may be loaded."""
    _prepare_libraries()
    if sys.stderr.isatty():
        print("loading libraries ...", file=sys.stderr)
    from .launch import local
    from .run import exit

    def task() -> Run | None:
        recipe, overrides = plan()
        overrides, processes = _split_processes(overrides)
        return local.run_recipe(recipe, overrides, processes)

    exit.run_guarded(task)


def _prepare_libraries() -> None:
    """Settings that the libraries read when they load; their messages are held back."""
    # Tokenizers would warn at every fork. Waiting OpenMP threads spin: beside another busy process steps took 15 times
    # as long; this bound costs a tenth when alone.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from .system import library_log

    library_log.hold_messages()


def _split_processes(overrides: list[str]) -> tuple[list[str], int | None]:
    if "--processes" not in overrides:
        return overrides, None
    at = overrides.index("--processes")
    if not overrides[at + 1 : at + 2] or not overrides[at + 1].isdigit() or overrides[at + 1] == "0":
        raise RecipeError("--processes takes a number of processes, 1 or more")
    return overrides[:at] + overrides[at + 2 :], int(overrides[at + 1])


def _split_recipe(words: list[str]) -> tuple[str, list[str]]:
    """The recipe (default: the miniature's) and its overrides."""
    return (words[0], words[1:]) if words and not words[0].startswith("--") else (DEFAULT_RECIPE, words)


def _prepare_reading() -> None:
    """For verbs that only read a recipe: hold the libraries' messages, and go offline if there is no hub."""
    from .system import library_log, offline

    library_log.hold_messages()
    offline.go_offline_if_needed()


def _submit(words: list[str]) -> None:
    _prepare_reading()
    from .slurm import submit
    from .system import library_log

    library_log.release_messages(None)
    if not words or words[0].startswith("--"):
        sys.exit("error: which recipe? open-r1 submit recipes/Qwen2.5-7B/grpo/r1_zero.yaml")
    if "--dry-run" in words:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    submit.submit(words[0], words[1:])


def _check(words: list[str]) -> None:
    _prepare_reading()
    from .config.loading import load_recipe
    from .pipeline import graph
    from .system import library_log
    from .training import preflight

    library_log.release_messages(None)
    path, overrides = _split_recipe(words)
    if graph.is_pipeline(path):
        return _train([path, *overrides, "--dry-run"])
    findings = preflight.check_recipe(load_recipe(path, overrides, planned=True))
    print("\n".join(findings.table))
    for text in findings.said:
        print(f"\n{text}")
    for kind, texts in (("warning", findings.warnings), ("pointless", findings.fatal)):
        for text in texts:
            print(f"\n{kind}: {text}")
    if findings.fatal:
        sys.exit(1)
    print(f"\n{path} can be run" + (", but see the warnings" if findings.warnings else ""))


def _estimate(words: list[str]) -> None:
    _prepare_reading()
    from .config.overrides import parse_overrides
    from .estimate import command, estimate
    from .pipeline import estimates, graph
    from .system import library_log

    library_log.release_messages(None)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    path, overrides = _split_recipe(words)
    if graph.is_pipeline(path):
        options, changes = estimate.parse_options(parse_overrides(overrides))
        print(estimates.format_estimates(estimates.estimate_stages(Path(path), changes, options)))
        return
    for part in command.report_estimates([path, *overrides]):
        print(part, flush=True)


def _serve(words: list[str]) -> None:
    if not words or words[0].startswith("--"):
        sys.exit("error: which model? open-r1 serve deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
    from .launch import vllm_server
    from .system import failures

    try:
        sys.exit(128 + vllm_server.serve_model(words[0], words[1:]))
    except (RecipeError, Unavailable) as error:
        failures.record_error(error)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, RecipeError) else Unavailable.CODE)


def _judge(arguments: argparse.Namespace) -> None:
    from .config.overrides import parse_overrides
    from .rewards import judge_file

    paths = Path(arguments.input), Path(arguments.output)
    summary = judge_file.judge_file(arguments.reward, *paths, parse_overrides(arguments.more))
    print(", ".join(f"{count:g} {name}" for name, count in summary.items()))


def _compare(arguments: argparse.Namespace) -> None:
    if arguments.reference is not None:
        return _compare_with_reference(arguments)
    from .evaluation import compare as evaluation_compare
    from .report import comparison

    if arguments.output:
        comparison.check_output(Path(arguments.output))
    keys = ("metric", "allow", "level", "seed")
    compared = evaluation_compare.compare_runs(arguments.runs, **{key: getattr(arguments, key) for key in keys})
    print(comparison.format_comparison(compared))
    if arguments.output:
        comparison.write_comparison(compared, Path(arguments.output))


def _compare_with_reference(arguments: argparse.Namespace) -> None:
    from .evaluation.reference import curves
    from .report import run_report

    if arguments.output:
        raise RecipeError("--output: a comparison with a reference is in the run's report; remove the option")
    if len(arguments.runs) != 1:
        raise RecipeError("--reference: name one run; compare several runs without --reference")
    run_dir = Path(arguments.runs[0])
    placed = curves.place_run(run_dir, arguments.reference)
    print(curves.format_placement(placed))
    curves.save_placement(placed, run_dir)
    print(run_report.write_report(run_dir))


def _reference(arguments: argparse.Namespace) -> None:
    from .evaluation.reference import curves

    curves.write_reference(curves.build_reference([Path(run) for run in arguments.runs]), Path(arguments.output))
    print(arguments.output)


def _status(arguments: argparse.Namespace) -> None:
    from .slurm import status as slurm_status

    print(slurm_status.describe_run(arguments.run_dir))


def _lineage(arguments: argparse.Namespace) -> None:
    from .run import lineage as run_lineage

    print(run_lineage.format_lineage(Path(arguments.run_dir)))


def _report(arguments: argparse.Namespace) -> None:
    from .pipeline import command
    from .report import run_report

    directory = Path(arguments.run_dir)
    write = command.write_report if (directory / command.WRITTEN).is_file() else run_report.write_report
    print(write(directory))


if __name__ == "__main__":
    main()
