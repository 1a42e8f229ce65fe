"""Recipes: flat YAML onto TRL's config dataclasses plus ours.

A recipe is `recipes/<model>/<task>/<variant>.yaml`. Its keys are the field names of TRL's config for the task
(`SFTConfig`, `GRPOConfig`, `RLOOConfig`, `DPOConfig`, `RewardConfig`), of TRL's `ModelConfig`, and of the dataclasses
below. Whatever is wrong with a recipe is said here, before a model or a dataset is loaded.

Nothing heavy is imported until a recipe is resolved, so that the command line stays quick.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from . import algorithms, benchmarks, checks, hardware
from .errors import RecipeError, nearest
from .network import VLLM_SERVER
from .rewards import RewardConfig
from .toy import DROPPED, shrink

ACCELERATE_CONFIGS = Path("recipes/accelerate_configs")
HF_SEED = 42  # transformers' default of `seed`
# Safe; libyaml's is ten times as fast, which hundreds of recipes make seconds.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TRAINERS = ("sft", "grpo", "rloo", "dpo", "reward")
DATA_TASKS = ("sample", "select", "mix")
SHARDED_TASKS = (*DATA_TASKS, "evaluate")  # these write files of rows, which tell by themselves what is done
TASKS = (*TRAINERS, *SHARDED_TASKS)


@dataclass
class DatasetConfig:
    """One source of rows.

    Args:
        path: a hub name, a local json, jsonl, parquet or csv file, a folder of those, a folder written by
            `save_to_disk`, `package.module:function` called with `args` and, unless they have one, the run's `seed`,
            or a sample, select or mix recipe, whose result is read; it is run first if it has not been.
        name: the hub dataset's configuration.
        split: split to read.
        columns: our column -> the source's column (`{prompt: question, solution: answer}`).
        template: column -> text with the source's columns in braces (`{prompt: "{instruction}\n{input}"}`).
        extract: column -> regular expression; the column becomes its first group (`{solution: '#### (.+)'}`).
        filters: column -> value, list of values, or `{min, max, not, matches}`; a row must meet all of them.
        kind: what its rows are (`math`, `code`, `general`, ...), for rewards that apply to some `kinds` only; a column
            of that name in the source says it row by row.
        opens_think: its completions begin inside their reasoning, as R1's own do where the chat template ended in
            `<think>`; select and mix put the tag back.
        weight: share of this source in the mixture; those of all sources sum to 1. Without weights sources are
            concatenated.
        rows: keep the first so many rows (after filters); a mix draws them at random.
        epochs: how often a mix repeats the source; its last part may be a fraction.
        license: of the source, for the card of a mix.
        args: keyword arguments of the function named by `path`.
    """

    path: str
    name: str | None = None
    split: str = "train"
    columns: dict[str, str] = field(default_factory=dict)
    template: dict[str, str] = field(default_factory=dict)
    extract: dict[str, str] = field(default_factory=dict)
    filters: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    opens_think: bool = False
    weight: float | None = None
    rows: int | None = None
    epochs: float | None = None
    license: str | None = None
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class ContaminationConfig:
    """The comparison of the training prompts with the evaluation sets in `against`; other sets are not looked at.

    Args:
        against: evaluation sets: names of benchmarks, or sources with a `prompt` column.
        ngram: words in a row that two texts must share (10 in the paper's D.1, 8 in open-r1).
        overlap: least share of an evaluation prompt's n-grams that a row must have to count; at 0, the paper's rule,
            a stock phrase of that length counts.
        near: also compare by MinHash, at this Jaccard similarity; None does not.
        action: of contaminated rows: fail, drop or waive.
        reason: why they may stay, with `action: waive`; it is kept with the run.
    """

    against: list[DatasetConfig] = field(default_factory=list)
    ngram: int = 10
    overlap: float = 0.0
    near: float | None = None
    action: str = "fail"
    reason: str | None = None


@dataclass
class DeduplicateConfig:
    """Rows that repeat an earlier one are left out.

    Args:
        column: what is compared.
        exact: the same text, but for case, white space and punctuation.
        near: Jaccard similarity from which texts are the same by MinHash; None compares exactly only.
    """

    column: str = "prompt"
    exact: bool = True
    near: float | None = None


@dataclass
class EvaluationConfig:
    """Held-out problems judged before, during and after training.

    Args:
        datasets: sources, as for training; they need the columns of the accuracy scorer.
        k: samples per problem.
        every: steps between live evaluations; 0 evaluates only before and after.
        live_rows: problems of a live evaluation (the first so many of the full set).
        max_completion_length: tokens; None takes the trainer's own.
        temperature: sampling temperature.
        top_p: nucleus sampling.
        batch_size: completions generated at once.
    """

    datasets: list[DatasetConfig]
    k: int = 16
    every: int = 0
    live_rows: int = 64
    max_completion_length: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 1024


@dataclass
class DataConfig:
    """What is trained on and how it is presented.

    Args:
        datasets: training sources.
        eval_datasets: sources for the trainer's own evaluation loop (`eval_strategy`).
        prompt: a name in `prompts.PROMPTS`: how a question becomes the model's prompt.
        system_prompt: system message put before every conversation.
        chat_template: a name in `prompts.CHAT_TEMPLATES`; None keeps the tokenizer's own.
        tokenizer_name_or_path: None takes the model's; `package.module:function` is called without arguments.
        pad_token: a token of its for padding; None takes the one it has, or one that its family sets aside.
        streaming: read rows as they are needed instead of preparing the whole set; needs `max_steps`.
        contamination: evaluation sets whose problems must not be among the prompts.
    """

    datasets: list[DatasetConfig] = field(default_factory=list)
    eval_datasets: list[DatasetConfig] = field(default_factory=list)
    prompt: str = "chat"
    system_prompt: str | None = None
    chat_template: str | None = None
    tokenizer_name_or_path: str | None = None
    pad_token: str | None = None
    streaming: bool = False
    contamination: ContaminationConfig | None = None


@dataclass
class SamplingConfig:
    """How completions are drawn.

    Args:
        n: completions of each prompt.
        temperature: 0 takes the likeliest token.
        top_p: nucleus sampling; 1 is off.
        top_k: the likeliest so many tokens; 0 is off.
        max_tokens: of a completion; a longer one is cut, and marked by `finish_reason: length`.
        stop: texts that end a completion and are cut off it.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024
    stop: list[str] = field(default_factory=list)


@dataclass
class EngineConfig:
    """What generates; the engine's own parameters stand beside its name.

    Args:
        name: a name in `engines.ENGINES`, or `package.module:Class`.
        parameters: keyword arguments of the engine.
    """

    name: str = "transformers"
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class BenchmarkConfig:
    """A set of held-out problems and how it is measured: a file of `open_r1/benchmarks`, one's own, or both in part.

    Args:
        name: of a file there, or of one's own benchmark.
        datasets: its problems, with the columns `prompt` and those of the verifier; `id` names a problem, which
            otherwise goes by its prompt's hash; `language` is the one to answer in.
        title: in tables.
        problems: how many there are; fewer or more are a departure that is told.
        prompt: a name in `prompts.PROMPTS`.
        system_prompt: system message put before every problem.
        verifier: the reward whose verdict is the score.
        k: samples of each problem.
        metrics: `pass@<n>` and `maj@<n>`; `k` in place of a number stands for all samples.
        temperature: sampling temperature.
        top_p: nucleus sampling.
        max_tokens: of a completion.
        source: where this protocol is from.
        file: of one's own benchmark, which departures are told from; filled in.
    """

    name: str
    datasets: list[DatasetConfig] = field(default_factory=list)
    title: str | None = None
    problems: int | None = None
    prompt: str = "chat"
    system_prompt: str | None = None
    verifier: RewardConfig = field(default_factory=lambda: RewardConfig("accuracy"))
    k: int = 1
    metrics: list[str] = field(default_factory=lambda: ["pass@1"])
    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 32768
    source: str | None = None
    file: str | None = None


@dataclass
class FilterConfig:
    """One step of a selection; the filter's own parameters stand beside its name.

    Args:
        name: a name in `filters.FILTERS`, or `package.module:function`.
        label: its name in the funnel, where one filter is listed twice.
        kinds: rows it applies to, by their `kind`; None for all.
        parameters: keyword arguments of the filter.
    """

    name: str
    label: str | None = None
    kinds: list[str] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class PairsConfig:
    """Which two samples of a prompt become a preference pair.

    Args:
        by: `verdict` pairs a right sample with a wrong one; the name of a reward, a better with a worse one.
        min_margin: least difference of that reward.
        max_length_ratio: longer over shorter, in tokens; the paper's pairs are "of comparable length".
        per_prompt: most pairs of one prompt.
    """

    by: str = "verdict"
    min_margin: float = 0.0
    max_length_ratio: float = 1.5
    per_prompt: int = 1


@dataclass
class ShardedConfig:
    """What the tasks that write files of rows have in common.

    Args:
        output_dir: the run directory; the rows are in its `data` folder.
        seed: of everything that is drawn.
        shard_rows: rows of one parquet file: what is begun again after a kill.
        part: number of this job of an array, from 0; a Slurm array says it by itself.
        parts: jobs of the array.
    """

    output_dir: str | None = None
    seed: int = HF_SEED
    shard_rows: int = 10_000
    part: int = 0
    parts: int = 1


@dataclass
class DataTaskConfig(ShardedConfig):
    """What sample, select and mix have in common: their rows are a dataset.

    Args:
        hub_dataset_id: push the dataset there, with its card, if there is a login.
        hub_private: make that repository private.
    """

    hub_dataset_id: str | None = None
    hub_private: bool = False


@dataclass
class SampleConfig(DataTaskConfig):
    """Prompts in, `sampling.n` completions each out.

    Args:
        sampling: how completions are drawn.
        engine: what generates them.
        shard_rows: prompts of one file.
        deduplicate: prompts that repeat an earlier one are left out.
        model_init_kwargs: for `from_pretrained`.
        trust_remote_code: run code that comes with the model.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    shard_rows: int = 256
    deduplicate: DeduplicateConfig | None = None
    model_init_kwargs: dict[str, Any] | None = None
    trust_remote_code: bool = False


@dataclass
class SelectConfig(DataTaskConfig):
    """Rejection sampling: judge, filter, choose, and write what is left for training.

    Args:
        filters: the steps, in order.
        output: `messages` for SFT, `pairs` for DPO.
        pairs: which pairs.
        reasoning: `keep` it; `drop` it; or `auto`: drop it where the query is simple, unless a verifier judged the
            answer.
        no_reasoning: how an answer without reasoning is written: `plain`, or `empty_think` for models whose template
            opens `<think>` by itself.
        simple_prompt_words: a query of at most so many words, and
        simple_answer_words: an answer of at most so many, make a query simple.
        curriculum: bounds between 0 and 1 that part the prompts by their share of right samples; they are written to
            one file for each difficulty.
        deduplicate: selected rows that repeat an earlier one are left out.
        examples: rejected samples kept for each reason.
    """

    filters: list[FilterConfig] = field(default_factory=list)
    output: str = "messages"
    pairs: PairsConfig = field(default_factory=PairsConfig)
    reasoning: str = "keep"
    no_reasoning: str = "plain"
    simple_prompt_words: int = 12
    simple_answer_words: int = 40
    curriculum: list[float] | None = None
    deduplicate: DeduplicateConfig | None = None
    examples: int = 3


@dataclass
class MixConfig(DataTaskConfig):
    """Several sources as one dataset.

    Args:
        rows: of the whole mixture, where sources have weights; None takes as many as the scarcest source allows.
        deduplicate: rows that repeat an earlier one, of whichever source, are left out.
        keep: columns of the sources that are kept beside the messages and what tells where a row comes from; of
            prompts, all are.
        title: of the card.
    """

    rows: int | None = None
    deduplicate: DeduplicateConfig | None = None
    keep: list[str] = field(default_factory=list)
    title: str | None = None


@dataclass
class EvaluateConfig(ShardedConfig):
    """Benchmarks, each by its own protocol; the keys from `k` to `max_tokens` replace that of all of them.

    Args:
        benchmarks: names of `open_r1/benchmarks`, files, or mappings with a `name` and keys that replace its file's.
        k: samples of each problem.
        metrics: names of metrics.
        problems: only the first so many of each benchmark.
        temperature: sampling temperature.
        top_p: nucleus sampling.
        max_tokens: of a completion.
        level: of the intervals.
        reference: a name in recipes/reference to set the figures beside; a model's own published figures are found by
            its name.
        engine: what generates.
        completions: a file of completions made elsewhere, which are judged; no model takes part then.
        shard_rows: problems of one file.
        rejudge: judge the stored completions of this run again.
        model_init_kwargs: for `from_pretrained`.
        trust_remote_code: run code that comes with the model.
    """

    benchmarks: list[BenchmarkConfig] = field(default_factory=list)
    k: int | None = None
    metrics: list[str] | None = None
    problems: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    level: float = 0.95
    reference: str | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    completions: DatasetConfig | None = None
    shard_rows: int = 32
    rejudge: bool = False
    model_init_kwargs: dict[str, Any] | None = None
    trust_remote_code: bool = False


@dataclass
class RunConfig:
    """What a run starts from, where it runs, and what it leaves behind.

    Args:
        task: sft, grpo, rloo, dpo, reward, sample, select, mix or evaluate; normally the recipe's folder says it.
        rewards: rewards of GRPO and RLOO, and judges of a selection.
        max_error_share: the run stops when the judges themselves failed on more than this share of a step.
        preflight: try the rewards on a few rows before training, and refuse to start if they cannot work.
        evaluation: held-out problems.
        algorithm: a name in `algorithms.ALGORITHMS`, for the keys of TRL's that make a variant of GRPO.
        base_recipe: recipe whose model this run starts from; run first if it has not been.
        random_init: configuration of a model made from scratch (`{model_type: qwen2, hidden_size: 64, ...}`).
        merge_adapter: merge the adapter into full-precision weights at the end.
        gpus: GPUs the recipe is written for; 0 runs on CPU.
        gpu_type: their kind, a name in `hardware.GPUS`, for estimates; it runs on any.
        accelerate_config: name of a file in recipes/accelerate_configs for more than one process.
        vllm_server_gpus: GPUs of a vLLM server that is started for this run (`vllm_mode: server`), beside `gpus`; 0
            for one that is there already.
        vllm_server_restart: a server that dies has a Slurm job go on from its last checkpoint; if false, it fails.
        toy: shrink model, data and batch so that the recipe runs on CPU in seconds.
        overwrite: delete an existing run directory of this name first.
        report: draw report.html and plots/ at the end; `open-r1 report` draws them later.
        print_every: steps between tables of sampled completions on the terminal; 0 prints none.
        threads: CPU threads per process; None divides the cores among the processes of this machine.
    """

    task: str | None = None
    rewards: list[RewardConfig] = field(default_factory=list)
    max_error_share: float = 0.25
    preflight: bool = True
    evaluation: EvaluationConfig | None = None
    algorithm: str | None = None
    base_recipe: str | None = None
    random_init: dict[str, Any] | None = None
    merge_adapter: bool = False
    gpus: int = 0
    gpu_type: str = hardware.DEFAULT
    accelerate_config: str | None = None
    vllm_server_gpus: int = 0
    vllm_server_restart: bool = True
    toy: bool = False
    overwrite: bool = False
    report: bool = True
    print_every: int = 25
    threads: int | None = None


@dataclass
class Recipe:
    """A resolved recipe: `given` is what was written (file, overrides, our defaults); the rest is typed from it.

    `args` is TRL's config of a trainer, or this module's of a data task; `model` is None where no model takes part.
    """

    task: str
    path: Path
    given: dict[str, Any]
    args: Any
    model: Any
    data: DataConfig
    run: RunConfig

    @property
    def run_dir(self) -> Path:
        return Path(self.given["output_dir"])

    @property
    def seed(self) -> int:
        return int(self.given.get("seed", HF_SEED))

    @property
    def base(self) -> tuple[str, list[str]] | None:
        """The recipe that makes this one's base model, and its overrides; None if the model is named otherwise."""
        if self.run.base_recipe is None:
            return None
        words = seed_override(self.run.base_recipe, self.seed)
        made = base_model(self.run.base_recipe, self.seed)
        return (self.run.base_recipe, words) if self.model.model_name_or_path == made else None

    @property
    def part(self) -> int | None:
        """Number of this job of an array; None if one job does all."""
        return self.args.part if self.task in SHARDED_TASKS and self.args.parts > 1 else None

    @property
    def upstream(self) -> list[tuple[str, list[str]]]:
        """The recipes whose model or data this one starts from, with their overrides."""
        measured = self.args.benchmarks if self.task == "evaluate" else []
        held_out = [*self.data.eval_datasets, *(source for benchmark in measured for source in benchmark.datasets)]
        sources = [source.path for source in [*self.data.datasets, *held_out]]
        made = [(path, seed_override(path, self.seed)) for path in dict.fromkeys(sources) if is_recipe(path)]
        return ([self.base] if self.base else []) + made


# What we set where TRL's default is not the paper's or not this project's; a recipe may override any of it.
COMMON_DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    # Dense models use all their parameters in every pass; a mixture of experts sets this to true.
    "ddp_find_unused_parameters": False,
}
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {},
    # The adapter of a reward model must carry its head, which the base model does not have.
    "reward": {"lora_task_type": "SEQ_CLS", "lora_modules_to_save": ["score"]},
    "grpo": {
        # GRPO as DeepSeekMath eq. 3-4 write it: group-normalised rewards, mean over each completion's tokens, and the
        # plain estimator of the KL to the reference in the loss. R1 eq. 1-3 have whole outputs in place of tokens.
        "loss_type": "grpo",
        "scale_rewards": "group",
        "beta": 0.001,
        "use_bias_correction_kl": False,
        "num_generations": 16,
        "temperature": 1.0,
        "log_completions": True,
        # TRL's table shows the whole batch at every step; callbacks.CompletionTable shows a few rows now and then.
        "num_completions_to_print": 0,
    },
    "rloo": {
        # REINFORCE leave-one-out (arXiv 2402.14740), with the group, temperature and KL coefficient of R1-Zero in
        # place of TRL's 2 and 0.05. The KL is part of the reward here, summed over the completion.
        "beta": 0.001,
        "num_generations": 16,
        "temperature": 1.0,
        "log_completions": True,
        "num_completions_to_print": 0,
    },
}
# Keys that change where and how a run is shown, not what it computes: they name no new run and break no resume.
PRESENTATION_KEYS = {
    "output_dir", "overwrite", "report_to", "run_name", "print_every", "disable_tqdm", "task", "part", "parts",
    "hub_dataset_id", "hub_private", "rejudge", "reference", "report", "gpu_type",
    "vllm_server_gpus", "vllm_server_restart", "vllm_server_base_url", "vllm_server_host", "vllm_server_port",
    "vllm_server_timeout", "vllm_group_port",
}  # fmt: skip
# Of an engine, what says where and how fast it works; its other parameters may change what it writes.
ENGINE_PRESENTATION_KEYS = {
    "endpoints", "concurrency", "timeout", "patience", "retries", "backoff", "key_env", "max_bytes", "batch_size",
    "tensor_parallel_size", "gpu_memory_utilization",
}  # fmt: skip
# Keys of a selection that its judging does not depend on.
CHOICE_KEYS = {
    "filters", "output", "pairs", "reasoning", "no_reasoning", "simple_prompt_words", "simple_answer_words",
    "curriculum", "deduplicate", "examples",
}  # fmt: skip

# Keys of an evaluation that its completions do not depend on, and of its benchmarks.
JUDGING_KEYS = {"metrics", "level"}
BENCHMARK_JUDGING_KEYS = {"metrics", "verifier", "title", "source"}


def computed(given: dict[str, Any], rejudge: bool = False) -> dict[str, Any]:
    """A recipe's keys without those that change nothing of what is computed.

    Args:
        given: the recipe.
        rejudge: nor those that change only how completions are judged, and what is told of them.
    """
    kept = {key: value for key, value in given.items() if key not in PRESENTATION_KEYS}
    if rejudge:
        kept = {key: value for key, value in kept.items() if key not in JUDGING_KEYS}
        kept["benchmarks"] = [
            {key: value for key, value in benchmark.items() if key not in BENCHMARK_JUDGING_KEYS}
            for benchmark in kept.get("benchmarks", [])
        ]
    if isinstance(kept.get("engine"), dict):
        kept["engine"] = {k: v for k, v in kept["engine"].items() if k not in ENGINE_PRESENTATION_KEYS}
    return kept


def array_part() -> dict[str, int]:
    """`part` and `parts` of this job of a Slurm array; nothing outside one, or with `parts` of one."""
    told = {key: os.environ.get(f"SLURM_ARRAY_TASK_{key}") for key in ("ID", "MIN", "STEP", "COUNT")}
    if told["ID"] is None or told["COUNT"] in (None, "1"):
        return {}
    first, step = int(told["MIN"] or 0), int(told["STEP"] or 1)
    return {"part": (int(told["ID"]) - first) // step, "parts": int(told["COUNT"])}


def planned_processes(path: str, overrides: list[str]) -> int:
    """One for each GPU the recipe is written for; one on a CPU, at toy size, and if the engine spreads by itself."""
    read = ("engine", "gpus", "toy")
    changes = {key: value for key, value in parse_overrides(overrides).items() if key.partition(".")[0] in read}
    given = apply_overrides(read_yaml(Path(path)), changes)
    engine = given.get("engine") or {}
    if (engine.get("name") if isinstance(engine, dict) else engine) in ("vllm", "server"):
        return 1
    gpus = given.get("gpus", 0)
    return gpus if isinstance(gpus, int) and gpus > 0 and not given.get("toy") else 1


def world_size() -> int:
    """Number of processes of this run, as the launcher announced it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def outline(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """A training's recipe before its libraries are loaded, which takes seconds: TRL's own keys are not checked.

    Args:
        path, overrides: as of `load_recipe`.

    Raises:
        RecipeError: as of `load_recipe`, but for those keys.
    """
    path = Path(path)
    task, given = resolve(path, parse_overrides(overrides or []))
    run, data = (
        _fill(of, {key: given[key] for key in given.keys() & {f.name for f in dataclasses.fields(of)}}, "recipe")
        for of in (RunConfig, DataConfig)
    )
    model = SimpleNamespace(model_name_or_path=given.get("model_name_or_path"))
    return Recipe(task=task, path=path, given=given, args=None, model=model, data=data, run=run)


def load_recipe(
    path: str | Path, overrides: list[str] | None = None, processes: int | None = None, planned: bool = False
) -> Recipe:
    """Read, merge, check and type a recipe.

    Args:
        path: a YAML file; its parent folder names the task unless it has a `task` key.
        overrides: command-line words (`["--seed", "7", "--datasets.0.path", "rows.jsonl"]`).
        processes: how many will run it, if not those of this launch; `args` is then left to them.
        planned: the recipe is only looked at, so this machine need not have its hardware; `args` is left out.

    Raises:
        RecipeError: unknown key, wrong type or impossible combination; names the key and the nearest valid one.
    """
    path = Path(path)
    task, given = resolve(path, parse_overrides(overrides or []))
    groups = _groups(task)
    values = _sort_into_groups(given, groups, path)
    run = _fill(RunConfig, values["run"], "recipe")
    data = _fill(DataConfig, values["data"], "recipe")
    model = _fill(groups["model"], values["model"], "recipe") if "model" in groups else None
    typed = _typed(groups["args"], values["args"], "recipe")
    processes = processes or world_size()
    checks.check_recipe(task, given | typed, run, data, model)
    if not planned:
        checks.check_machine(given | typed, run, model)
    if task in checks.RL_TASKS:
        checks.check_rl(given | typed, run, processes)
    recipe = Recipe(task=task, path=path, given=given, args=None, model=model, data=data, run=run)
    if task in SHARDED_TASKS:
        array = array_part() | typed
        if "part" in array and "parts" not in array:
            raise RecipeError(f"parts: part {array['part']} of how many? Add e.g. --parts 4")
        recipe.args = groups["args"](**array)
        checks.check_sharded_task(task, recipe.args, run, data)
        return recipe
    if planned or processes != world_size():
        return recipe
    _cpu_defaults(typed)
    if run.vllm_server_gpus and VLLM_SERVER in os.environ:
        typed["vllm_server_base_url"], port = os.environ[VLLM_SERVER].split()
        typed["vllm_group_port"] = int(port)
    try:
        recipe.args = groups["args"](**typed)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{path}: {groups['args'].__name__} refuses these values: {error}") from error
    return recipe


def resolve(path: Path, changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A recipe's task, and its keys with overrides and our defaults, none of them checked yet.

    Args:
        path: of the recipe.
        changes: dotted key -> value.
    """
    named = changes
    changes = dict(named)
    written = read_yaml(path)
    if "algorithm" in written:
        stated = algorithms.apply(written["algorithm"], {}) | written
        written = algorithms.with_rewards(written["algorithm"], stated)
    if changes.get("algorithm") is not None:
        written = algorithms.apply(changes["algorithm"], written)
    task = _task(path, written | {key: changes[key] for key in ("task",) if key in changes})
    if task == "evaluate":
        # Each by all of its keys, so that `--benchmarks.0.k 4` finds its place, and the run keeps what was measured.
        listed = {key: changes.pop(key) for key in ("benchmarks",) if key in changes}
        written = apply_overrides(written, listed)
        written["benchmarks"] = [benchmarks.find(entry) for entry in _as_list(written.get("benchmarks"))]
    given = apply_overrides(written, changes)
    given = (COMMON_DEFAULTS if task in TRAINERS else {}) | TASK_DEFAULTS.get(task, {}) | given | {"task": task}
    given.setdefault("output_dir", default_output_dir(path, task, named))
    if given.get("base_recipe") and not given.get("toy"):
        given.setdefault("model_name_or_path", base_model(given["base_recipe"], int(given.get("seed", HF_SEED))))
    if given.get("toy"):
        # What the command line says outright stands.
        given = apply_overrides(shrink(given), {k: v for k, v in changes.items() if k not in DROPPED})
    return task, given


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(str(p) for p in Path("recipes").glob("*/*/*.yaml"))
        raise RecipeError(f"no recipe at {path}{nearest(str(path), known)}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must be a mapping of keys to values, got {type(content).__name__}")
    return content


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """`--key value`, `--key=value`, `--flag`, `--key v1 v2` (a list), `--rewards.0.weight 2` into a mapping."""
    changes: dict[str, Any] = {}
    key, values = None, []

    def close() -> None:
        if key is not None:
            changes[key] = True if not values else values[0] if len(values) == 1 else list(values)

    for word in words:
        if word.startswith("--"):
            close()
            key, _, value = word[2:].partition("=")
            key, values = key.replace("-", "_"), [_value(value)] if "=" in word else []
        elif key is None:
            raise RecipeError(f"expected an override such as --seed 7, got {word!r}")
        else:
            values.append(_value(word))
    close()
    return changes


def words_of(changes: dict[str, Any]) -> list[str]:
    """Overrides as the command-line words that `parse_overrides` reads."""
    return [f"--{key}={_word(value)}" for key, value in changes.items()]


def _word(value: Any) -> str:
    if isinstance(value, str) and _value(value) == value:
        return value
    # Not JSON, whose 1e-05 YAML takes for a text.
    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return written.removesuffix("...\n").strip()


def _value(word: str) -> Any:
    """A word of the command line as YAML, where that is what was meant: not `Answer: yes`, `#### (.+)` or `no`."""
    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError:
        return word
    meant = {dict: word.startswith("{"), type(None): word in ("null", "~"), bool: word.lower() in ("true", "false")}
    return value if meant.get(type(value), True) else word


def apply_overrides(written: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of `written` with `changes`; a dotted key reaches into lists (by index) and mappings."""
    given = copy.deepcopy(written)
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place: Any = given
        for part in parents:
            place = _step_into(place, part, dotted)
        if isinstance(place, list):
            place[_index(place, last, dotted)] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise RecipeError(f"--{dotted}: {last!r} is inside a {type(place).__name__}, which has no keys")
    return given


def _step_into(place: Any, part: str, dotted: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, dotted)]
    if not isinstance(place, dict):
        raise RecipeError(f"--{dotted}: {part!r} is inside a {type(place).__name__}, which has no keys")
    if place.get(part) is None:
        place[part] = {}
    return place[part]


def _index(items: list, part: str, dotted: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise RecipeError(f"--{dotted}: {part!r} is not an index of a list with {len(items)} entries (0 is the first)")
    return int(part)


def default_output_dir(path: Path, task: str, changes: dict[str, Any]) -> str:
    """`runs/<model>/<task>/<variant>`, with the overrides in the name, so that the same command means the same run."""
    shown = PRESENTATION_KEYS | {f"engine.{key}" for key in ENGINE_PRESENTATION_KEYS}
    if task == "evaluate":  # the completions are the same
        shown = shown | JUDGING_KEYS
    named = {k: v for k, v in changes.items() if k not in shown}
    suffix = "".join(f"--{k}={v}" for k, v in sorted(named.items()) if k != "toy") + (
        "--toy" if "toy" in named else ""
    )
    suffix = re.sub(r"[^\w.=+-]+", "_", suffix)
    if len(suffix) > 120:
        import hashlib

        suffix = "--" + hashlib.sha256(suffix.encode()).hexdigest()[:12]
    model = path.resolve().parent.parent.name
    return str(Path("runs") / model / task / (path.stem + suffix))


def seed_override(recipe: str, seed: int) -> list[str]:
    """What a run starts from is made with its own seed."""
    return [] if read_yaml(Path(recipe)).get("seed", HF_SEED) == seed else ["--seed", str(seed)]


def made_by(recipe: str, seed: int) -> Path:
    """The run directory of a recipe that another one starts from."""
    path, changes = Path(recipe), parse_overrides(seed_override(recipe, seed))
    written = read_yaml(path)
    return Path(written.get("output_dir") or default_output_dir(path, _task(path, written), changes))


def base_model(base_recipe: str, seed: int) -> str:
    return str(made_by(base_recipe, seed) / "model")


def is_recipe(path: str) -> bool:
    """True if a source is named by the recipe that makes it."""
    return Path(path).suffix in (".yaml", ".yml")


def _task(path: Path, given: dict[str, Any]) -> str:
    task = given.get("task") or path.resolve().parent.name
    if task not in TASKS:
        raise RecipeError(
            f"{path}: the folder of a recipe names its task (recipes/<model>/<task>/<variant>.yaml), and {task!r} is "
            f"not one of {', '.join(TASKS)}; move the file or set `task:`"
        )
    return task


def _groups(task: str) -> dict[str, type]:
    """The dataclasses a recipe of this task fills. TRL's `ModelConfig` shares no field with the trainers' configs."""
    groups = {"run": RunConfig, "data": DataConfig}
    if task in ("select", "mix"):
        return groups | {"args": args_class(task)}
    import trl

    return groups | {"model": trl.ModelConfig, "args": args_class(task)}


def args_class(task: str) -> type:
    """TRL's config of a trainer, or this module's of another task."""
    if task in SHARDED_TASKS:
        return {"sample": SampleConfig, "select": SelectConfig, "mix": MixConfig, "evaluate": EvaluateConfig}[task]
    import trl

    args = {"sft": "SFT", "grpo": "GRPO", "rloo": "RLOO", "dpo": "DPO", "reward": "Reward"}[task]
    return getattr(trl, f"{args}Config")


def accelerate_config(name: str) -> Path:
    """The file of an accelerate config.

    Raises:
        RecipeError: there is none of that name.
    """
    path = ACCELERATE_CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in ACCELERATE_CONFIGS.glob("*.yaml")))
        raise RecipeError(f"accelerate_config: there is no {path}; known: {known}")
    return path


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _sort_into_groups(given: dict[str, Any], groups: dict[str, type], path: Path) -> dict[str, dict[str, Any]]:
    fields = {name: {f.name for f in dataclasses.fields(cls) if f.init} for name, cls in groups.items()}
    known = sorted(set().union(*fields.values()))
    values: dict[str, dict[str, Any]] = {name: {} for name in groups}
    for key, value in given.items():
        owner = next((name for name in groups if key in fields[name]), None)
        if owner is None:
            raise RecipeError(f"{path}: unknown key {key!r}{nearest(key, known)}")
        values[owner][key] = value
    return values


def _fill(cls: type, values: dict[str, Any], where: str) -> Any:
    try:
        return cls(**_typed(cls, values, where))
    except ValueError as error:
        raise error if isinstance(error, RecipeError) else RecipeError(f"{where}: {error}") from error


def _typed(cls: type, values: dict[str, Any], where: str) -> dict[str, Any]:
    """Values checked and converted to the annotations of `cls` (YAML reads `1e-6` as a string)."""
    hints = typing.get_type_hints(cls)
    choices = {f.name: f.metadata.get("choices") for f in dataclasses.fields(cls)}
    typed = {}
    for key, value in values.items():
        at = key if where == "recipe" else f"{where}.{key}"
        inner = _dataclass_in(hints[key])
        typed[key] = _scalar(value, hints[key], at) if inner is None or value is None else _nested(inner, value, at)
        if choices[key] and typed[key] is not None and typed[key] not in choices[key]:
            raise RecipeError(f"{at}: {value!r} is not one of {', '.join(map(str, choices[key]))}")
    return typed


def _scalar(value: Any, hint: Any, at: str) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    options = typing.get_args(hint) or (hint,)
    if isinstance(value, str) and any(typing.get_origin(o) is list for o in options) and str not in options:
        value = [value]
    if value is False and at.endswith("_strategy"):
        value = "no"  # YAML reads a bare `no` as false
    # A number is never meant by true/false.
    wrong_bool = isinstance(value, bool) and not any(o in (bool, Any) for o in options)
    try:
        if wrong_bool:
            raise TypeError("true/false is not a number or a text")
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except (ValidationError, TypeError) as error:
        reason = error.errors()[0]["msg"].lower() if isinstance(error, ValidationError) else str(error)
        name = getattr(hint, "__name__", None) if not typing.get_args(hint) else None
        raise RecipeError(
            f"{at}: expected {name or str(hint).replace('typing.', '')}, got {value!r} ({reason})"
        ) from None


def _dataclass_in(hint: Any) -> tuple[type, bool] | None:
    """The dataclass that a key's value is read as, and whether the key holds a list of them."""
    for option in [hint, *typing.get_args(hint)]:
        items = typing.get_args(option) if typing.get_origin(option) is list else ()
        for cls, many in [(option, False), *((item, True) for item in items)]:
            if dataclasses.is_dataclass(cls) and cls.__module__.startswith(__package__):
                return cls, many
    return None


def _nested(inner: tuple[type, bool], value: Any, at: str) -> Any:
    cls, many = inner
    if many:
        if not isinstance(value, list):
            raise RecipeError(f"{at}: expected a list, got {value!r}")
        return [_entry(cls, item, f"{at}.{i}") for i, item in enumerate(value)]
    return _entry(cls, value, at)


def _entry(cls: type, item: Any, at: str) -> Any:
    first = dataclasses.fields(cls)[0].name
    if isinstance(item, str):
        item = {first: item}
    if not isinstance(item, dict):
        raise RecipeError(f"{at}: expected a mapping, got {item!r}")
    known = {f.name for f in dataclasses.fields(cls)}
    if "parameters" in known:
        # The own parameters of a reward, filter or engine stand beside its name in the recipe.
        own = known - {"parameters"}
        item = {k: v for k, v in item.items() if k in own} | {
            "parameters": {k: v for k, v in item.items() if k not in own}
        }
    for key in item:
        if key not in known:
            raise RecipeError(f"{at}: unknown key {key!r}{nearest(key, sorted(known))}")
    if first not in item and dataclasses.fields(cls)[0].default is dataclasses.MISSING:
        raise RecipeError(f"{at}: {first!r} is missing")
    return cls(**_typed(cls, item, at))


def _cpu_defaults(values: dict[str, Any]) -> None:
    """Without a GPU: tell transformers so, and leave TRL's bf16 default, which only slows a CPU down."""
    import torch

    if not torch.cuda.is_available():
        values.setdefault("use_cpu", True)
        values.setdefault("bf16", False)
