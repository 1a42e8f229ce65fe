"""The keys of every recipe as dataclasses, with the rules that concern one dataclass alone.

A text in `Annotated` says which values a key allows, for the error message. A rule between keys of one dataclass is
in its method `check`, whose messages begin with the key; the loader calls it and puts the place in front.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval

from .. import prompts
from ..benchmarks import registry
from ..errors import RecipeError, suggest_nearest
from ..rewards.registry import RewardConfig, check_reward, find_ballot
from ..system import hardware

RL_TASKS = ("grpo", "rloo")  # these sample completions and reward them

ACCELERATE_CONFIGS = Path("recipes/accelerate_configs")
HF_SEED = 42  # transformers' default of `seed`
TRAINERS = ("sft", "grpo", "rloo", "dpo", "reward")
DATA_TASKS = ("sample", "select", "mix")
SHARDED_TASKS = (*DATA_TASKS, "evaluate")  # these write files of rows, which show what is done
TASKS = (*TRAINERS, *SHARDED_TASKS)

Count = Annotated[int, Ge(1), "1 or more"]
Amount = Annotated[int, Ge(0), "0 or more"]
Rows = Annotated[int, Ge(1), "a number of rows, 1 or more"]
Seed = Annotated[int, Interval(ge=0, lt=2**32), f"a number from 0 to {2**32 - 1:,}"]
Share = Annotated[float, Interval(ge=0, le=1), "a share from 0 to 1"]
Similarity = Annotated[float, Interval(gt=0, lt=1), "a similarity between 0 and 1"]
Positive = Annotated[float, Gt(0), "above 0"]
Weight = Annotated[float, Gt(0), "above 0; to leave a source out, remove it"]
Temperature = Annotated[float, Ge(0), "0 or above"]
TopP = Annotated[float, Interval(gt=0, le=1), "above 0 and at most 1"]
Samples = Annotated[int, Interval(ge=1, le=10_000), "1 or more, and at most 10,000"]  # held in memory together


def check_prompt(name: str | None) -> None:
    """Refuse a prompt that is not in `prompts.PROMPTS`."""
    if name is not None and name not in prompts.PROMPTS:
        raise RecipeError(f"prompt: no prompt is named {name!r}{suggest_nearest(name, list(prompts.PROMPTS))}")


def check_greedy(temperature: float | None, key: str, n: int) -> None:
    """Refuse several samples of one prompt at temperature 0."""
    if temperature == 0 and n > 1:
        raise RecipeError(f"{key}: at temperature 0 all {n} completions would be the same; use {key}: 1")


def find_task_module(task: str) -> str:
    """The module of a task. One named `select` would hide the standard library's from a task started by its file."""
    return f"open_r1.{'selection' if task == 'select' else task}"


@dataclass
class DatasetConfig:
    """One source of rows.

    Args:
        path: a hub name, a local json, jsonl, parquet or csv file, a folder of those, a folder written by
            `save_to_disk`, `package.module:function` called with `args` and the run's `seed` (unless `args` has
            one), or a sample, select or mix recipe, which is run first if its result does not exist yet.
        name: the hub dataset's configuration.
        split: split to read.
        columns: our column -> the source's column (`{prompt: question, solution: answer}`).
        template: column -> text with the source's columns in braces (`{prompt: "{instruction}\n{input}"}`).
        extract: column -> regular expression; the column becomes its first group (`{solution: '#### (.+)'}`).
        filters: column -> value, list of values, or `{min, max, not, matches}`; a row must meet all of them.
        kind: the kind of its rows (`math`, `code`, `general`, ...), for rewards that apply to some `kinds` only; a
            column of that name in the source overrides it row by row.
        opens_think: its completions start inside their reasoning, as R1's do where the chat template ended in
            `<think>`; select and mix put the tag back.
        weight: share of this source in the mixture; the weights of all sources sum to 1. Without weights the sources
            are concatenated.
        rows: keep the first `rows` rows (after filters); a mix draws them at random.
        epochs: how often a mix repeats the source; its last part may be a fraction.
        license: license of the source, for the card of a mix.
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
    weight: Weight | None = None
    rows: int | None = None
    epochs: Positive | None = None
    license: str | None = None
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class ContaminationConfig:
    """The comparison of the training prompts with the evaluation sets in `against`; other sets are not looked at.

    Args:
        against: evaluation sets: names of benchmarks, or sources with a `prompt` column.
        ngram: consecutive words that two texts must share (10 in the paper's D.1, 8 in open-r1).
        overlap: least share of an evaluation prompt's n-grams that a row must contain to count; at 0, the paper's
            rule, one shared stock phrase of `ngram` words counts.
        near: least Jaccard similarity of the word pairs of two texts that also counts; None turns it off.
        action: what happens to contaminated rows.
        reason: why they may stay, with `action: waive`; it is stored with the run.
    """

    against: list[DatasetConfig] = field(default_factory=list)
    ngram: Annotated[int, Ge(1), "a number of words, 1 or more"] = 10
    overlap: Share = 0.0
    near: Similarity | None = None
    action: Literal["fail", "drop", "waive"] = "fail"
    reason: str | None = None

    def check(self) -> None:
        if not self.against:
            raise RecipeError("against: name at least one evaluation set, e.g. `against: [math500, aime24]`")
        if self.action == "waive" and not (self.reason or "").strip():
            raise RecipeError("reason: say why contaminated rows may stay; it is stored with the run")


@dataclass
class DeduplicateConfig:
    """Removal of rows that repeat an earlier one.

    Args:
        column: column that is compared.
        exact: compare the texts, ignoring case, white space and punctuation.
        near: Jaccard similarity from which MinHash counts two texts as the same; None turns it off.
    """

    column: str = "prompt"
    exact: bool = True
    near: Similarity | None = None

    def check(self) -> None:
        if not self.exact and self.near is None:
            raise RecipeError("exact: neither `exact` nor `near` is set; remove `deduplicate`, or set one of them")


@dataclass
class EvaluationConfig:
    """Held-out problems, measured before, during and after training.

    Args:
        datasets: sources, as for training; they need the columns of the accuracy scorer.
        k: samples per problem.
        every: steps between live evaluations; 0 evaluates only before and after.
        live_rows: problems of a live evaluation (the first `live_rows` of the full set).
        max_completion_length: tokens; None takes the trainer's own.
        temperature: sampling temperature.
        top_p: nucleus sampling.
        batch_size: completions generated at once.
    """

    datasets: list[DatasetConfig]
    k: Count = 16
    every: Amount = 0
    live_rows: int = 64
    max_completion_length: Count | None = None
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    batch_size: Count = 1024


@dataclass
class DataConfig:
    """The training data and how it is presented to the model.

    Args:
        datasets: training sources.
        eval_datasets: sources for the trainer's own evaluation loop (`eval_strategy`).
        prompt: a name in `prompts.PROMPTS`: how a question becomes the model's prompt.
        system_prompt: system message at the start of every conversation.
        chat_template: a name in `prompts.CHAT_TEMPLATES`; None keeps the tokenizer's own.
        tokenizer_name_or_path: None takes the model's; `package.module:function` is called without arguments.
        pad_token: a token of the tokenizer to pad with; None takes its padding token, or one that its model family
            reserves for padding.
        streaming: read rows when they are needed instead of preparing the whole set; needs `max_steps`.
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

    def check(self) -> None:
        check_prompt(self.prompt)
        templates = list(prompts.CHAT_TEMPLATES)
        if self.chat_template is not None and self.chat_template not in templates:
            raise RecipeError(
                f"chat_template: none is named {self.chat_template!r}{suggest_nearest(self.chat_template, templates)}"
            )
        weights = [source.weight for source in self.datasets if source.weight is not None]
        if weights and len(weights) < len(self.datasets):
            raise RecipeError("datasets: give a weight to every source or to none")
        if weights and abs((total := sum(weights)) - 1) > 1e-6:
            shares = ", ".join(f"{weight / total:.4g}" for weight in weights)
            raise RecipeError(f"datasets: the weights sum to {total:g}, not to 1; in the same proportions: {shares}")


@dataclass
class SamplingConfig:
    """How completions are drawn.

    Args:
        n: completions of each prompt.
        temperature: 0 takes the most likely token.
        top_p: nucleus sampling; 1 turns it off.
        top_k: sample from the `top_k` most likely tokens; 0 turns it off.
        max_tokens: tokens of a completion; a longer one is cut, and marked by `finish_reason: length`.
        stop: texts that end a completion and are removed from it.
    """

    n: Count = 1
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: Annotated[int, Ge(0), "0 (off) or above"] = 0
    max_tokens: Count = 1024
    stop: list[str] = field(default_factory=list)

    def check(self) -> None:
        if "" in self.stop:
            raise RecipeError("stop: an empty text would end every completion; remove it")
        check_greedy(self.temperature, "n", self.n)


@dataclass
class EngineConfig:
    """The engine that generates; its parameters stand beside its name.

    Args:
        name: a name in `engines.ENGINES`, or `package.module:Class`.
        parameters: keyword arguments of the engine.
    """

    name: str = "transformers"
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class BenchmarkConfig:
    """A set of held-out problems and the protocol that measures it.

    The keys come from a file of `open_r1/benchmarks` or of the user, and from the recipe, which replaces them.

    Args:
        name: name of a file there, or of the user's benchmark.
        datasets: its problems, with the columns `prompt` and those of the verifier; `id` names a problem (default:
            the hash of its prompt); `language` is the language to answer in.
        title: title in tables.
        problems: how many there are; another number is reported as a departure from the protocol.
        prompt: a name in `prompts.PROMPTS`.
        system_prompt: system message at the start of every problem.
        verifier: the reward whose verdict is the score.
        k: samples of each problem.
        metrics: `pass@<n>` and `maj@<n>`; `k` in place of a number stands for all samples.
        temperature: sampling temperature.
        top_p: nucleus sampling.
        max_tokens: tokens of a completion.
        source: where this protocol comes from.
        file: file of the user's benchmark, against which departures are reported; set by the loader.
    """

    name: str
    datasets: list[DatasetConfig] = field(default_factory=list)
    title: str | None = None
    problems: Count | None = None
    prompt: str = "chat"
    system_prompt: str | None = None
    verifier: RewardConfig = field(default_factory=lambda: RewardConfig("accuracy"))
    k: Samples = 1
    metrics: list[str] = field(default_factory=lambda: ["pass@1"])
    temperature: Temperature = 0.6
    top_p: TopP = 0.95
    max_tokens: Count = 32768
    source: str | None = None
    file: str | None = None

    def check_protocol(self) -> None:
        """Rules between keys, to be called once the recipe's keys have replaced the file's (`apply_protocol`)."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", self.name):
            raise RecipeError("name: a name of at most 100 letters, digits, - and _, because it names files")
        if not self.datasets:
            raise RecipeError("datasets: the list is empty; name the source of its problems")
        check_prompt(self.prompt)
        check_greedy(self.temperature, "k", self.k)
        check_reward(self.verifier, "verifier")
        if not self.metrics:
            raise RecipeError("metrics: the list is empty; e.g. `metrics: [pass@1]`")
        for name in self.metrics:
            metric = registry.resolve_metric(name, self.k)
            if metric.startswith("maj@") and find_ballot(self.verifier.name) is None:
                raise RecipeError(f"metrics: {name} is a vote over answers, and {self.verifier.name} gives no answers")


@dataclass
class RunConfig:
    """What a run starts from, where it runs, and what it writes.

    Args:
        task: sft, grpo, rloo, dpo, reward, sample, select, mix or evaluate; by default the name of the recipe's
            folder.
        rewards: rewards of GRPO and RLOO, and verifiers of a selection.
        max_error_share: the run stops when verifiers fail (outcome `error`) on more than this share of a step.
        preflight: try the rewards on a few rows before training, and refuse to start if they cannot work.
        evaluation: held-out problems.
        algorithm: a name in `algorithms.ALGORITHMS`: the keys of TRL that make a variant of GRPO.
        base_recipe: recipe that makes the model this run starts from; it is run first if that model does not exist.
        random_init: configuration of a model made from scratch (`{model_type: qwen2, hidden_size: 64, ...}`).
        merge_adapter: merge the adapter into full-precision weights at the end.
        gpus: GPUs the recipe is written for; 0 runs on CPU.
        gpu_type: their type, a name in `hardware.GPUS`, for estimates; the run accepts any.
        accelerate_config: name of a file in recipes/accelerate_configs, for more than one process.
        vllm_server_gpus: GPUs of a vLLM server that is started for this run (`vllm_mode: server`), in addition to
            `gpus`; 0 uses a server that already runs.
        vllm_server_restart: when the server dies, a Slurm job continues from its last checkpoint; if false, it fails.
        toy: shrink model, data and batch to run on CPU in seconds.
        overwrite: delete an existing run directory of this name first.
        report: draw report.html and plots/ at the end; `open-r1 report` draws them later.
        print_every: steps between tables of sampled completions on the terminal; 0 prints none.
        threads: CPU threads per process; None divides the cores among the processes of this machine.
    """

    task: str | None = None
    rewards: list[RewardConfig] = field(default_factory=list)
    max_error_share: Share = 0.25
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

    def check(self) -> None:
        hardware.find_gpu(self.gpu_type)
