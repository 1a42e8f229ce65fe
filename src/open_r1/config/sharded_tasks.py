"""The keys of sample, select, mix and evaluate recipes, which write files of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from ..benchmarks import registry
from ..errors import RecipeError
from ..filters.registry import FilterConfig
from .protocol import apply_protocol
from .schema import (
    HF_SEED,
    Amount,
    BenchmarkConfig,
    Count,
    DatasetConfig,
    DeduplicateConfig,
    EngineConfig,
    Rows,
    Samples,
    SamplingConfig,
    Seed,
    Temperature,
    TopP,
)


@dataclass
class PairsConfig:
    """Which two samples of a prompt become a preference pair.

    Args:
        by: `verdict` pairs a correct sample with a wrong one; the name of a reward, a better with a worse one.
        min_margin: least difference of that reward.
        max_length_ratio: longer over shorter, in tokens; the paper's pairs are "of comparable length".
        per_prompt: most pairs of one prompt.
    """

    by: str = "verdict"
    min_margin: Annotated[float, Ge(0), "0 or above"] = 0.0
    max_length_ratio: Annotated[float, Ge(1), "longer over shorter, so at least 1"] = 1.5
    per_prompt: Count = 1


@dataclass
class ShardedConfig:
    """Keys of all tasks that write files of rows.

    Args:
        output_dir: the run directory; the rows are in its `data` folder.
        seed: seed of everything that is drawn.
        shard_rows: rows of one parquet file, which is the work that a kill can lose.
        part: number of this job of an array, from 0; by default that of the Slurm array.
        parts: jobs of the array.
    """

    output_dir: str | None = None
    seed: Seed = HF_SEED
    shard_rows: Rows = 10_000
    part: int = 0
    parts: Count = 1

    def check(self) -> None:
        if not 0 <= self.part < self.parts:
            raise RecipeError(f"part: {self.part} of {self.parts} parts; the first is 0, the last {self.parts - 1}")


@dataclass
class DataTaskConfig(ShardedConfig):
    """Keys of sample, select and mix, whose rows are a dataset.

    Args:
        hub_dataset_id: push the dataset there, with its card, if there is a login.
        hub_private: make that repository private.
    """

    hub_dataset_id: str | None = None
    hub_private: bool = False


@dataclass
class SampleConfig(DataTaskConfig):
    """Prompts in, `sampling.n` completions of each out.

    Args:
        sampling: how completions are drawn.
        engine: the engine that generates them.
        shard_rows: prompts of one file.
        deduplicate: removes prompts that repeat an earlier one.
        model_init_kwargs: for `from_pretrained`.
        trust_remote_code: run code that comes with the model.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    shard_rows: Rows = 256
    deduplicate: DeduplicateConfig | None = None
    model_init_kwargs: dict[str, Any] | None = None
    trust_remote_code: bool = False


@dataclass
class SelectConfig(DataTaskConfig):
    """Rejection sampling: judge, filter, choose, and write what remains for training.

    Args:
        filters: the steps, in order.
        output: `messages` for SFT, `pairs` for DPO.
        pairs: which pairs.
        reasoning: `keep` it; `drop` it; or `auto`: drop it where the query is simple, unless a verifier judged the
            answer.
        no_reasoning: how an answer without reasoning is written: `plain`, or `empty_think` for models whose template
            opens `<think>`.
        simple_prompt_words: a query of at most this many words is simple, if
        simple_answer_words: its answer has at most this many words.
        curriculum: bounds between 0 and 1 that divide the prompts by their share of correct samples; each difficulty
            is written to a file of its own.
        deduplicate: removes selected rows that repeat an earlier one.
        examples: rejected samples kept for each reason.
    """

    filters: list[FilterConfig] = field(default_factory=list)
    output: Literal["messages", "pairs"] = "messages"
    pairs: PairsConfig = field(default_factory=PairsConfig)
    reasoning: Literal["keep", "drop", "auto"] = "keep"
    no_reasoning: Literal["plain", "empty_think"] = "plain"
    simple_prompt_words: int = 12
    simple_answer_words: int = 40
    curriculum: list[float] | None = None
    deduplicate: DeduplicateConfig | None = None
    examples: Amount = 3

    def check(self) -> None:
        super().check()
        columns = ("prompt", "completion") if self.output == "messages" else ("prompt", "chosen", "rejected")
        if self.deduplicate is not None and self.deduplicate.column not in columns:
            raise RecipeError(
                f"deduplicate.column: {self.deduplicate.column!r} is not one of {', '.join(columns)}, with "
                f"`output: {self.output}`"
            )
        bounds = self.curriculum or []
        if sorted(set(bounds)) != bounds or not all(0 < bound < 1 for bound in bounds):
            raise RecipeError(f"curriculum: bounds between 0 and 1, each above the one before it, got {bounds}")


@dataclass
class MixConfig(DataTaskConfig):
    """Several sources as one dataset.

    Args:
        rows: rows of the whole mixture, where sources have weights; None takes as many as the scarcest source allows.
        deduplicate: removes rows that repeat an earlier one of any source.
        keep: columns of the sources to keep beside the messages and the columns that name a row's source; of prompts,
            all columns are kept.
        title: title of the card.
    """

    rows: Rows | None = None
    deduplicate: DeduplicateConfig | None = None
    keep: list[str] = field(default_factory=list)
    title: str | None = None

    def check(self) -> None:
        super().check()
        if self.parts > 1:
            raise RecipeError("parts: a mix is one job, because it computes nothing; remove the key")


@dataclass
class EvaluateConfig(ShardedConfig):
    """Benchmarks, each by its own protocol; the keys from `k` to `max_tokens` replace those of every benchmark.

    Args:
        benchmarks: names of `open_r1/benchmarks`, files, or mappings with a `name` and keys that replace its file's.
        k: samples of each problem.
        metrics: names of metrics.
        problems: only the first `problems` of each benchmark.
        temperature: sampling temperature.
        top_p: nucleus sampling.
        max_tokens: tokens of a completion.
        level: confidence level of the intervals.
        reference: a name in recipes/reference whose figures are shown beside these; a model's own published figures
            are found by its name.
        engine: the engine that generates.
        completions: a file of completions made elsewhere, which are judged; no model is loaded then.
        shard_rows: problems of one file.
        rejudge: judge the stored completions of this run again.
        model_init_kwargs: for `from_pretrained`.
        trust_remote_code: run code that comes with the model.
    """

    benchmarks: list[BenchmarkConfig] = field(default_factory=list)
    k: Samples | None = None
    metrics: list[str] | None = None
    problems: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: Count | None = None
    level: Annotated[float, Interval(ge=0.5, lt=1), "a confidence level from 0.5 to below 1, such as 0.95"] = 0.95
    reference: str | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    completions: DatasetConfig | None = None
    shard_rows: Rows = 32
    rejudge: bool = False
    model_init_kwargs: dict[str, Any] | None = None
    trust_remote_code: bool = False

    def check(self) -> None:
        super().check()
        names = [benchmark.name for benchmark in self.benchmarks]
        if not names:
            known = ", ".join(registry.list_benchmarks())
            raise RecipeError(f"benchmarks: name at least one of {known}, or the YAML file of your own")
        for name in names:
            if names.count(name) > 1:
                raise RecipeError(f"benchmarks: {name!r} is listed twice; give one of them another `name`")
        for benchmark in apply_protocol(self):
            try:
                benchmark.check_protocol()
            except RecipeError as error:
                raise RecipeError(f"benchmarks.{benchmark.name}.{error}") from error


def find_args_class(task: str) -> type:
    """The config class of a task: TRL's of a trainer, or one of these."""
    ours = {"sample": SampleConfig, "select": SelectConfig, "mix": MixConfig, "evaluate": EvaluateConfig}
    if task in ours:
        return ours[task]
    import trl

    names = {"sft": "SFT", "grpo": "GRPO", "rloo": "RLOO", "dpo": "DPO", "reward": "Reward"}
    return getattr(trl, f"{names[task]}Config")
