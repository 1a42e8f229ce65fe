"""The keys of every recipe, as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..filters.registry import FilterConfig
from ..rewards.registry import RewardConfig
from ..system import hardware

RL_TASKS = ("grpo", "rloo")  # these sample completions and reward them

ACCELERATE_CONFIGS = Path("recipes/accelerate_configs")
HF_SEED = 42  # transformers' default of `seed`
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
        near: least Jaccard similarity of the word pairs of two texts that also counts; None disables it.
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


def find_args_class(task: str) -> type:
    """TRL's config of a trainer, or this module's of another task."""
    if task in SHARDED_TASKS:
        return {"sample": SampleConfig, "select": SelectConfig, "mix": MixConfig, "evaluate": EvaluateConfig}[task]
    import trl

    args = {"sft": "SFT", "grpo": "GRPO", "rloo": "RLOO", "dpo": "DPO", "reward": "Reward"}[task]
    return getattr(trl, f"{args}Config")
