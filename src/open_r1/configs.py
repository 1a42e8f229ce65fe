"""Recipes: flat YAML onto TRL's config dataclasses plus ours.

A recipe is `recipes/<model>/<task>/<variant>.yaml`. Its keys are the field names of TRL's config for the task
(`SFTConfig`, `GRPOConfig`, `DPOConfig`), of TRL's `ModelConfig`, and of the dataclasses below. Whatever is wrong with
a recipe is said here, before a model or a dataset is loaded.

Nothing heavy is imported until a recipe is resolved, so that the command line stays quick.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from . import prompts, rewards
from .errors import RecipeError
from .rewards import RewardConfig
from .toy import DROPPED, shrink

HF_SEED = 42  # transformers' default of `seed`
TASKS = ("sft", "grpo", "dpo", "reward")


@dataclass
class DatasetConfig:
    """One source of rows.

    Args:
        path: a hub name, a local json, jsonl, parquet or csv file, a folder of those, a folder written by
            `save_to_disk`, or `package.module:function` called with `seed` and `args`.
        name: the hub dataset's configuration.
        split: split to read.
        columns: our column -> the source's column (`{prompt: question, solution: answer}`).
        extract: column -> regular expression; the column becomes its first group (`{solution: '#### (.+)'}`).
        filters: column -> value, list of values, or `{min, max, not, matches}`; a row must meet all of them.
        kind: what its rows are (`math`, `code`, `general`, ...), for rewards that apply to some `kinds` only; a column
            of that name in the source says it row by row.
        weight: share of this source in the mixture, relative to the others; without weights sources are concatenated.
        rows: keep the first so many rows (after filters).
        args: keyword arguments of the function named by `path`.
    """

    path: str
    name: str | None = None
    split: str = "train"
    columns: dict[str, str] = field(default_factory=dict)
    extract: dict[str, str] = field(default_factory=dict)
    filters: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    weight: float | None = None
    rows: int | None = None
    args: dict[str, Any] = field(default_factory=dict)


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
        streaming: read rows as they are needed instead of preparing the whole set; needs `max_steps`.
    """

    datasets: list[DatasetConfig] = field(default_factory=list)
    eval_datasets: list[DatasetConfig] = field(default_factory=list)
    prompt: str = "chat"
    system_prompt: str | None = None
    chat_template: str | None = None
    tokenizer_name_or_path: str | None = None
    streaming: bool = False


@dataclass
class RunConfig:
    """What a run starts from, where it runs, and what it leaves behind.

    Args:
        task: sft, grpo, dpo or reward; normally the recipe's folder says it.
        rewards: rewards of GRPO.
        max_error_share: the run stops when the judges themselves failed on more than this share of a step.
        preflight: try the rewards on a few rows before training, and refuse to start if they cannot work.
        evaluation: held-out problems.
        base_recipe: recipe whose model this run starts from; run first if it has not been.
        random_init: configuration of a model made from scratch (`{model_type: qwen2, hidden_size: 64, ...}`).
        merge_adapter: merge the adapter into full-precision weights at the end.
        gpus: GPUs the recipe is written for; 0 runs on CPU.
        accelerate_config: name of a file in recipes/accelerate_configs for more than one process.
        toy: shrink model, data and batch so that the recipe runs on CPU in seconds.
        overwrite: delete an existing run directory of this name first.
        print_every: steps between tables of sampled completions on the terminal; 0 prints none.
        threads: CPU threads per process; None divides the cores among the processes of this machine.
    """

    task: str | None = None
    rewards: list[RewardConfig] = field(default_factory=list)
    max_error_share: float = 0.25
    preflight: bool = True
    evaluation: EvaluationConfig | None = None
    base_recipe: str | None = None
    random_init: dict[str, Any] | None = None
    merge_adapter: bool = False
    gpus: int = 0
    accelerate_config: str | None = None
    toy: bool = False
    overwrite: bool = False
    print_every: int = 25
    threads: int | None = None


@dataclass
class Recipe:
    """A resolved recipe: `given` is what was written (file, overrides, our defaults); the rest is typed from it."""

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
        words = base_overrides(self.run.base_recipe, self.seed)
        made = base_model(self.run.base_recipe, self.seed)
        return (self.run.base_recipe, words) if self.model.model_name_or_path == made else None


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
        # GRPO as DeepSeekMath eq. 3-4 and R1 eq. 1-3 write it: group-normalised rewards, mean over each completion's
        # tokens, and the plain estimator of the KL to the reference in the loss.
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
}
# Keys that change where and how a run is shown, not what it computes: they name no new run and break no resume.
PRESENTATION_KEYS = {"output_dir", "overwrite", "report_to", "run_name", "print_every", "disable_tqdm", "task"}


def world_size() -> int:
    """Number of processes of this run, as the launcher announced it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
    changes = parse_overrides(overrides or [])
    given = apply_overrides(read_yaml(path), changes)
    task = _task(path, given)
    given = COMMON_DEFAULTS | TASK_DEFAULTS[task] | given | {"task": task}
    given.setdefault("output_dir", default_output_dir(path, task, changes))
    if given.get("base_recipe") and not given.get("toy"):
        given.setdefault("model_name_or_path", base_model(given["base_recipe"], int(given.get("seed", HF_SEED))))
    if given.get("toy"):
        # What the command line says outright stands.
        given = apply_overrides(shrink(given), {k: v for k, v in changes.items() if k not in DROPPED})

    groups = _groups(task)
    values = _sort_into_groups(given, groups, path)
    run = _fill(RunConfig, values["run"], "recipe")
    data = _fill(DataConfig, values["data"], "recipe")
    model = _fill(groups["model"], values["model"], "recipe")
    typed = _typed(groups["args"], values["args"], "recipe")
    processes = processes or world_size()
    check_before_config(task, given | typed, run, data, model)
    if not planned:
        _check_machine(given | typed, run, model)
    if task == "grpo":
        _check_grpo(given | typed, run, processes)
    recipe = Recipe(task=task, path=path, given=given, args=None, model=model, data=data, run=run)
    if planned or processes != world_size():
        return recipe
    _cpu_defaults(typed)
    try:
        recipe.args = groups["args"](**typed)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{path}: {groups['args'].__name__} refuses these values: {error}") from error
    return recipe


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(str(p) for p in Path("recipes").glob("*/*/*.yaml"))
        raise RecipeError(f"no recipe at {path}{_nearest(str(path), known)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
    given = yaml.safe_load(yaml.safe_dump(written, allow_unicode=True))
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place: Any = given
        for part in parents:
            place = _step_into(place, part, dotted)
        if isinstance(place, list):
            place[_index(place, last, dotted)] = value
        else:
            place[last] = value
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
    named = {k: v for k, v in changes.items() if k not in PRESENTATION_KEYS}
    suffix = "".join(f"--{k}={v}" for k, v in sorted(named.items()) if k != "toy") + (
        "--toy" if "toy" in named else ""
    )
    suffix = re.sub(r"[^\w.=+-]+", "_", suffix)
    if len(suffix) > 120:
        import hashlib

        suffix = "--" + hashlib.sha256(suffix.encode()).hexdigest()[:12]
    model = path.resolve().parent.parent.name
    return str(Path("runs") / model / task / (path.stem + suffix))


def base_overrides(base_recipe: str, seed: int) -> list[str]:
    """A base model is made with the seed of the run that starts from it."""
    return [] if read_yaml(Path(base_recipe)).get("seed", HF_SEED) == seed else ["--seed", str(seed)]


def base_model(base_recipe: str, seed: int) -> str:
    path = Path(base_recipe)
    changes = parse_overrides(base_overrides(base_recipe, seed))
    return str(Path(default_output_dir(path, _task(path, read_yaml(path)), changes)) / "model")


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
    import trl

    args = {"sft": "SFTConfig", "grpo": "GRPOConfig", "dpo": "DPOConfig", "reward": "RewardConfig"}[task]
    return {"run": RunConfig, "data": DataConfig, "model": trl.ModelConfig, "args": getattr(trl, args)}


def _sort_into_groups(given: dict[str, Any], groups: dict[str, type], path: Path) -> dict[str, dict[str, Any]]:
    fields = {name: {f.name for f in dataclasses.fields(cls) if f.init} for name, cls in groups.items()}
    known = sorted(set().union(*fields.values()))
    values: dict[str, dict[str, Any]] = {name: {} for name in groups}
    for key, value in given.items():
        owner = next((name for name in groups if key in fields[name]), None)
        if owner is None:
            raise RecipeError(f"{path}: unknown key {key!r}{_nearest(key, known)}")
        values[owner][key] = value
    return values


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


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
        typed[key] = (
            _nested(key, value, at) if key in _NESTED and value is not None else _scalar(value, hints[key], at)
        )
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


def _nested(key: str, value: Any, at: str) -> Any:
    cls, many = _NESTED[key]
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
    if cls is RewardConfig:
        # A reward's own parameters stand beside its name in the recipe.
        own = known - {"parameters"}
        item = {k: v for k, v in item.items() if k in own} | {
            "parameters": {k: v for k, v in item.items() if k not in own}
        }
    for key in item:
        if key not in known:
            raise RecipeError(f"{at}: unknown key {key!r}{_nearest(key, sorted(known))}")
    if first not in item:
        raise RecipeError(f"{at}: {first!r} is missing")
    return cls(**_typed(cls, item, at))


_NESTED: dict[str, tuple[type, bool]] = {
    "datasets": (DatasetConfig, True),
    "eval_datasets": (DatasetConfig, True),
    "rewards": (RewardConfig, True),
    "evaluation": (EvaluationConfig, False),
}


def _cpu_defaults(values: dict[str, Any]) -> None:
    """Without a GPU: tell transformers so, and leave TRL's bf16 default, which only slows a CPU down."""
    import torch

    if not torch.cuda.is_available():
        values.setdefault("use_cpu", True)
        values.setdefault("bf16", False)


def check_before_config(task: str, given: dict[str, Any], run: RunConfig, data: DataConfig, model: Any) -> None:
    """Combinations that no library checks, or checks only once the model is loaded."""
    has = given.get
    if model.model_name_or_path is None and run.random_init is None and run.base_recipe is None:
        raise RecipeError("model_name_or_path: no model is named (nor base_recipe or random_init)")
    if not data.datasets:
        raise RecipeError(
            "datasets: the list is empty; name at least one source, e.g. `datasets: [{path: rows.jsonl}]`"
        )
    if data.prompt not in prompts.PROMPTS:
        raise RecipeError(f"prompt: no prompt is named {data.prompt!r}{_nearest(data.prompt, list(prompts.PROMPTS))}")
    templates = list(prompts.CHAT_TEMPLATES)
    if data.chat_template is not None and data.chat_template not in templates:
        raise RecipeError(
            f"chat_template: none is named {data.chat_template!r}{_nearest(data.chat_template, templates)}"
        )
    weighted = [d.weight is not None for d in data.datasets]
    if any(weighted) and not all(weighted):
        raise RecipeError("datasets: give a weight to every source or to none")
    if any(d.weight is not None and d.weight <= 0 for d in data.datasets):
        raise RecipeError("datasets: weights must be above 0; remove a source instead of giving it weight 0")
    if data.streaming and not has("max_steps"):
        raise RecipeError("streaming: a stream has no known length, so set max_steps as well")
    for key in ("hub_token", "push_to_hub_token"):
        if has(key):
            raise RecipeError(f"{key}: a recipe is written to disk and shown in reports; set HF_TOKEN instead")
    if has("save_only_model"):
        raise RecipeError("save_only_model: without optimizer and random state a run cannot be resumed; remove it")
    if has("save_total_limit") is not None and given["save_total_limit"] < 2:
        raise RecipeError(
            "save_total_limit: keep at least 2; with 1 the old checkpoint is deleted before the new one is whole"
        )
    if (model.load_in_4bit or model.load_in_8bit) and not model.use_peft:
        bits = "load_in_4bit" if model.load_in_4bit else "load_in_8bit"
        raise RecipeError(f"{bits}: quantized weights cannot be trained themselves; add `use_peft: true` for QLoRA")
    if run.merge_adapter and not model.use_peft:
        raise RecipeError("merge_adapter: there is no adapter to merge without `use_peft: true`")
    if run.accelerate_config == "zero3" and (run.merge_adapter or run.random_init):
        key = "merge_adapter" if run.merge_adapter else "random_init"
        raise RecipeError(f"{key}: loads a whole model on one process, which ZeRO-3 cannot; use zero2 or ddp")
    if task != "grpo" and run.rewards:
        raise RecipeError(f"rewards: {task} has no rewards; they belong to grpo recipes")
    if task == "reward":
        _check_reward(data, model)
    if not 0 <= run.max_error_share <= 1:
        raise RecipeError(f"max_error_share: a share from 0 to 1, got {run.max_error_share}")


def _check_reward(data: DataConfig, model: Any) -> None:
    if prompts.PROMPTS[data.prompt].plain:
        raise RecipeError(
            f"prompt: {data.prompt} is for base models, and a reward model reads conversations; use `prompt: chat`"
        )
    if model.use_peft and model.lora_task_type != "SEQ_CLS":
        raise RecipeError(f"lora_task_type: a reward model's is SEQ_CLS, got {model.lora_task_type}; remove the key")
    if model.use_peft and "score" not in (model.lora_modules_to_save or []):
        raise RecipeError(
            "lora_modules_to_save: the reward head `score` is new and must be trained and saved whole; add it to the "
            "list, or remove the key"
        )


def _check_machine(given: dict[str, Any], run: RunConfig, model: Any) -> None:
    """What this machine lacks for the recipe."""
    import torch

    cuda = torch.cuda.device_count()
    has = given.get
    if run.gpus and not cuda:
        raise RecipeError(
            f"gpus: this recipe is written for {run.gpus} GPU{'s' if run.gpus > 1 else ''} and this machine has none; "
            "its header says which memory it needs. To see it work here at toy size, add --toy"
        )
    if has("packing") and not cuda:
        raise RecipeError(
            "packing: without flash attention the packed rows attend over the whole batch, over ten times slower on a "
            "CPU; set `packing: false`"
        )
    attention = model.attn_implementation or ""
    if attention.startswith("flash_attention") and importlib.util.find_spec("flash_attn") is None:
        raise RecipeError(f"attn_implementation: {attention} needs the package flash-attn; install it, or use sdpa")
    if has("use_vllm"):
        if not cuda:
            raise RecipeError("use_vllm: vLLM generates on a GPU and this machine has none; set `use_vllm: false`")
        if importlib.util.find_spec("vllm") is None:
            raise RecipeError(
                "use_vllm: vllm is not installed; run `make install EXTRAS=gpu`, or set `use_vllm: false`"
            )


def _check_grpo(given: dict[str, Any], run: RunConfig, processes: int) -> None:
    if not run.rewards:
        raise RecipeError("rewards: the list is empty; e.g. `rewards: [{name: accuracy}, {name: think_format}]`")
    if given.get("reward_weights") is not None:
        raise RecipeError(
            "reward_weights: weights stand beside each reward, `rewards: [{name: accuracy, weight: 1.0}]`"
        )
    rewards.check(run.rewards)
    if given.get("sync_ref_model") and not given["beta"]:
        raise RecipeError("sync_ref_model: with `beta: 0` there is no reference model; set beta above 0")
    group = given["num_generations"]
    if group is None or group < 2:
        raise RecipeError(f"num_generations: a group of {group} has no spread to learn from; use 2 or more")
    batch = given.get("per_device_train_batch_size", 8)
    steps = given.get("steps_per_generation") or given.get("gradient_accumulation_steps", 1)
    total = given.get("generation_batch_size") or batch * processes * steps
    if total % group:
        valid = [g for g in range(2, total + 1) if total % g == 0]
        nearest = min(valid, key=lambda g: abs(g - group)) if valid else None
        advice = f"the nearest num_generations that does is {nearest}" if nearest else "make the batch larger"
        raise RecipeError(
            f"num_generations: groups of {group} do not divide the {total} completions of a generation "
            f"(per_device_train_batch_size {batch} x {processes} processes x {steps} steps); {advice}"
        )
    if rewards.uses(run.rewards, "group") and (total // processes) % group:
        raise RecipeError(
            f"rewards: one of them compares the {group} completions of a prompt, and a process has only "
            f"{total // processes} at a time; raise per_device_train_batch_size to a multiple of num_generations"
        )
