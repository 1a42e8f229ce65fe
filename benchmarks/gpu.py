"""What training takes on one NVIDIA GPU: speed, memory, where a step's time goes, and the miniature from end to end.

    python benchmarks/gpu.py sft   [--only TEXT] [--steps 5]
    python benchmarks/gpu.py grpo  [--only TEXT] [--steps 3] [--completion 1024]
    python benchmarks/gpu.py story [--only TEXT]

Models have the shapes of Qwen2.5-1.5B and 7B and random weights, which are written to --work once (3 and 15 GB), so
nothing is downloaded. Each case is a recipe that goes through the project's own task, in a process of its own; one
that runs out of memory, or fails, is recorded as that, and the next begins. The first two steps are left out, figures
are medians. Memory is PyTorch's: allocated at the peak of the measured steps, reserved at the peak of all. What the
estimator says of the same is memory.py's.

sft: tokens per second of rows of 8,192 and 32,768 tokens, one to a batch, with full fine-tuning, LoRA of rank 32 and
QLoRA (if bitsandbytes is there), attention as a recipe gets it. `mfu` is the share of the GPU's peak in bfloat16 (data
sheet; open_r1.system.hardware) that the model's own arithmetic takes, what checkpointing computes again not counted:

    full          6 N D + 6 L H T D     N: parameters but for an untied input embedding; D: tokens of a step
    LoRA, QLoRA   4 N D + 6 A D + 6 L H T D     A: the adapter's, as frozen weights need no gradient of their own
                  L layers of H = heads x head size; T: tokens of a row; attention is causal, half of the square

`mfu_6nd` is the usual 6 N D + 6 L H T D for every method, to set beside others' figures.

grpo: seconds of generation, weight sync, reward (the project's `accuracy` and `think_format`), scoring
(log-probabilities of the reference and the old policy, advantages), forward and backward, and the rest (optimizer,
data, logging), by the clock around TRL's methods, the GPU synchronized at both ends. With vLLM in the same process if
it is installed, else transformers' continuous batching, else `generate`; `--engine all` takes each that is there. A
random model hardly ever draws its end token, so nearly every completion is as long as it may be.

story: `open-r1 train` of the miniature's base and its R1-Zero (recipes/tiny), and of the same in 92 million parameters
on sums of four to six digits: seconds, and the model before and after.

--smoke runs the same code at toy size on any machine. Results go to results/<command>_<gpu>.json after every case.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import yaml

ROOT = Path(__file__).parents[1]
WARM_UP = 2  # steps: allocation, compilation, the optimizer's state
MODELS = ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B")
LENGTHS = (8192, 32768)
TOY = {
    "model_type": "qwen2", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip
LORA = {"use_peft": True, "lora_r": 32, "lora_alpha": 64, "lora_target_modules": ["all-linear"]}
METHODS: dict[str, dict[str, Any]] = {"full": {}, "lora": LORA, "qlora": LORA | {"load_in_4bit": True}}
ENGINES: dict[str, dict[str, Any]] = {
    "vllm": {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3},
    "continuous batching": {"use_transformers_continuous_batching": True},
    "generate": {},
}
# Of 92 million parameters; longer sums than the miniature's, of four to six digits. Learning rates for this
# width are ours, and untried.
MIDDLE = {
    "base": {
        "random_init.hidden_size": 768, "random_init.intermediate_size": 2304, "random_init.num_hidden_layers": 12,
        "random_init.num_attention_heads": 12, "random_init.num_key_value_heads": 12,
        "random_init.initializer_range": 0.02, "learning_rate": 3.0e-4,
    },
    "zero": {"datasets.0.args.steps": [4, 6], "evaluation.datasets.0.args.steps": [4, 6], "learning_rate": 1.0e-5},
}  # fmt: skip
SMOKE_STORY = {
    "base": {
        "datasets.0.args.rows": 64, "per_device_train_batch_size": 8, "max_steps": 4, "warmup_steps": 1,
        "random_init.hidden_size": 192, "random_init.num_hidden_layers": 2,
    },
    "zero": {
        "max_steps": 2, "per_device_train_batch_size": 16, "evaluation.every": 0, "evaluation.k": 2,
        "evaluation.datasets.0.args.rows": 8, "preflight": False, "warmup_steps": 1,
    },
}  # fmt: skip


class Done(Exception):
    """The training is over and measured; saving a model and drawing a report is not what is asked for."""


def sft_cases(arguments: argparse.Namespace, work: Path) -> dict[str, dict[str, Any]]:
    """Recipes by the names of their cases."""
    models, lengths = (("toy",), (64,)) if arguments.smoke else (MODELS, LENGTHS)
    cases = {}
    for model in models:
        for method, keys in METHODS.items():
            for tokens in lengths:
                # As the recipes for GPUs have it; the rows are full, so that one is a pack.
                written = {
                    "task": "sft", "dtype": "bfloat16", "packing": True, "gpus": 1, "max_length": tokens,
                    "datasets": [{"path": str(rows_of(tokens, work))}], "per_device_train_batch_size": 1,
                }  # fmt: skip
                cases[f"{model.split('/')[-1]} {method} {tokens}"] = {"model": model} | written | keys
    return cases


def grpo_cases(arguments: argparse.Namespace, work: Path) -> dict[str, dict[str, Any]]:
    there = {
        "vllm": importlib.util.find_spec("vllm") is not None and not arguments.smoke,
        "continuous batching": True,
        "generate": True,
    }
    engines = [name for name, is_there in there.items() if is_there]
    if arguments.engine != "all" and not arguments.smoke:
        engines = [arguments.engine or engines[0]]
    models, tokens = (("toy",), 8) if arguments.smoke else (MODELS[:1], arguments.completion)
    cases = {}
    for model in models:
        for engine in engines:
            written = {
                "task": "grpo", "dtype": "bfloat16", "gpus": 1, "max_completion_length": tokens,
                "datasets": [{"path": "open_r1.tiny.problems:problems", "args": {"rows": 512, "seed": 0}}],
                "rewards": [{"name": "accuracy"}, {"name": "think_format"}], "preflight": False, "print_every": 0,
                "per_device_train_batch_size": 8, "gradient_accumulation_steps": 8, "num_generations": 8,
            }  # fmt: skip
            if arguments.smoke:
                written |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": 4}
            if engine == "continuous batching" and arguments.smoke:
                written["transformers_continuous_batching_config"] = {"max_memory_percent": 0.05}
            if engine == "vllm":
                written["vllm_max_model_length"] = tokens + 256
            cases[f"{model.split('/')[-1]} {engine} {tokens}"] = {"model": model} | written | ENGINES[engine]
    return cases


def rows_of(tokens: int, work: Path) -> Path:
    """A file of rows that are exactly so long, by a tokenizer of bytes."""
    path = work / f"rows_{tokens}.jsonl"
    if not path.is_file():
        draw = random.Random(tokens)
        letters = "abcdefghijklmnopqrstuvwxyz "
        # The end token that TRL adds is cut off again.
        rows = ["".join(draw.choices(letters, k=tokens)) for _ in range(64)]
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def weights(model: str, work: Path, data: Path) -> Path:
    """The folder of a model of random weights, made there if it is not yet."""
    path = work / "models" / model.split("/")[-1]
    if (path / "config.json").is_file():
        return path
    path.parent.mkdir(exist_ok=True)
    if model == "toy":
        make_weights(model, path, data)
    else:
        subprocess.run([sys.executable, __file__, "weights", model, str(path), str(data)], check=True)
    return path


def make_weights(model: str, path: Path, data: Path) -> None:
    """In a process of its own, so that nothing of it is left on the GPU."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from open_r1.models import byte_tokenizer

    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    with torch.device("cuda" if gpu else "cpu"):
        made = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**shape(model)), dtype=torch.bfloat16 if gpu else torch.float32
        )
    partial = path.with_name(f".{path.name}")
    made.save_pretrained(partial)
    # vLLM reads the tokenizer in this folder, and wants one that fits the model's vocabulary.
    theirs = data / "tokenizers" / "qwen2.5"
    fits = theirs.is_dir() and model in MODELS
    (AutoTokenizer.from_pretrained(theirs) if fits else byte_tokenizer()).save_pretrained(partial)
    partial.rename(path)


def shape(model: str) -> dict[str, Any]:
    from open_r1.config import architectures

    return dict(TOY) if model == "toy" else architectures.find_architecture(model)


def tokenizer_of(model: str, task: str, data: Path) -> str:
    theirs = data / "tokenizers" / "qwen2.5"
    if task == "grpo" and theirs.is_dir() and model in MODELS:
        return str(theirs.resolve())
    return "open_r1.models:byte_tokenizer"


def measured_training(result: dict[str, Any]) -> Callable[..., None]:
    """In place of `callbacks.train`: train, with a clock and no checkpoint, and put what was found into `result`."""
    import torch
    from transformers import PrinterCallback, TrainerCallback

    from open_r1.system.internals import require

    gpu = torch.cuda.is_available()

    def now() -> float:
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def train(trainer: Any, this: Any, *more: Any) -> None:
        phases = Phases(now)
        phases.watch(trainer)
        marks, logged, split = [], [], []

        class Clock(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                marks.append(now())

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                marks.append(now())
                split.append(phases.taken())
                if gpu and state.global_step == WARM_UP:
                    result["peak_allocated_warm_up"] = torch.cuda.max_memory_allocated()
                    torch.cuda.reset_peak_memory_stats()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                logged.append(dict(logs or {}))

        if gpu:
            result["allocated_before_training"] = torch.cuda.memory_allocated()
        result["attention"] = require(trainer.model.config, "_attn_implementation", "transformers")
        result["trained_parameters"] = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock())
        result["phase"] = "training"
        reserved = torch.cuda.max_memory_reserved() if gpu else None
        try:
            trainer.train()
        finally:
            if gpu:
                result["peak_allocated"] = torch.cuda.max_memory_allocated()
                result["peak_reserved"] = max(reserved or 0, torch.cuda.max_memory_reserved())
                result["steps_done"] = max(0, len(marks) - 1)
        seconds = [b - a for a, b in itertools.pairwise(marks)][WARM_UP:]
        result["step_seconds"] = record.told(seconds)
        result["phases"] = {
            name: statistics.median(step.get(name, 0.0) for step in split[WARM_UP:])
            for name in dict.fromkeys(name for step in split[WARM_UP:] for name in step)
        }
        rest = [s - sum(step.values()) for s, step in zip(seconds, split[WARM_UP:], strict=True)]
        result["phases"]["optimizer, data, logging"] = statistics.median(rest)
        lengths = [row["completions/mean_length"] for row in logged if "completions/mean_length" in row]
        if lengths:
            result["mean_completion_tokens"] = statistics.mean(lengths[WARM_UP:])
            result["step_time_of_trl"] = statistics.median(row["step_time"] for row in logged if "step_time" in row)
        raise Done

    return train


PHASES = {
    "training_step": "forward and backward",
    "_generate_and_score_completions": "scoring",
    "_generate": "generation",
    "_calculate_rewards": "reward",
}


class Phases:
    """Time inside each of a trainer's methods, without that inside another of them.

    Args:
        now: the clock.
    """

    def __init__(self, now: Callable[[], float]):
        self.now = now
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside: list[str] = []
        self.since = 0.0

    def watch(self, trainer: Any) -> None:
        from open_r1.system.internals import reward_functions

        for method in PHASES if reward_functions(trainer) else ("training_step",):
            self._wrap(trainer, method, PHASES[method])
        if getattr(trainer, "vllm_generation", None) is not None:
            self._wrap(trainer.vllm_generation, "sync_weights", "weight sync")

    def _wrap(self, owner: Any, method: str, name: str) -> None:
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self.inside.append(name)
            try:
                return original(*args, **kwargs)
            finally:
                self._turn()
                self.inside.pop()

        setattr(owner, method, timed)

    def _turn(self) -> None:
        """Give the time since the last turn to the innermost method."""
        at = self.now()
        if self.inside:
            self.seconds[self.inside[-1]] += at - self.since
        self.since = at

    def taken(self) -> dict[str, float]:
        """Since the last call."""
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken


def run_case(recipe: str) -> dict[str, Any]:
    """In a process of its own: a recipe through the project's own task, up to the end of its training."""
    import importlib

    import torch

    from open_r1.config.loading import load_recipe
    from open_r1.launch.local import find_task_module
    from open_r1.training import callbacks

    result: dict[str, Any] = {"phase": "loading", "out_of_memory": False, "error": None}
    callbacks.run_trainer = measured_training(result)
    try:
        loaded = load_recipe(recipe)
        importlib.import_module(find_task_module(loaded.task)).main(loaded)
    except Done:
        result["phase"] = "done"
    except torch.OutOfMemoryError as error:
        result |= {"out_of_memory": True, "error": str(error).splitlines()[0]}
    except Exception as error:
        # vLLM wraps its own.
        memory = "out of memory" in str(error).lower() or "no available memory" in str(error).lower()
        result |= {"out_of_memory": memory, "error": traceback.format_exc()[-3000:]}
    if torch.cuda.is_available():
        result.setdefault("peak_allocated", torch.cuda.max_memory_allocated())
        result.setdefault("peak_reserved", torch.cuda.max_memory_reserved())
    return result


def measured_case(name: str, case: dict[str, Any], arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Write a case's recipe and run it in a process of its own."""
    if case.get("load_in_4bit") and importlib.util.find_spec("bitsandbytes") is None:
        return {"skipped": "bitsandbytes is not installed"}
    if "--engine" in sys.argv and case.get("use_vllm") and importlib.util.find_spec("vllm") is None:
        return {"skipped": "vllm is not installed"}
    folder = work / "cases" / re.sub(r"\W+", "_", name)
    folder.mkdir(parents=True, exist_ok=True)
    model = case["model"]
    steps = WARM_UP + (2 if arguments.smoke else arguments.steps)
    written = {key: value for key, value in case.items() if key != "model"} | {
        "model_name_or_path": str(weights(model, work, arguments.data)),
        "tokenizer_name_or_path": tokenizer_of(model, case["task"], arguments.data),
        "max_steps": steps, "save_strategy": "no", "report": False, "overwrite": True,
        "learning_rate": 1e-6, "seed": 0, "output_dir": str(folder / "run"),
    }  # fmt: skip
    if case["task"] == "grpo":
        written["chat_template"] = "chatml"
    if arguments.attention:
        written["attn_implementation"] = arguments.attention
    if arguments.smoke:
        written |= {"gpus": 0, "dtype": "float32"}
        written.pop("packing", None)  # which a CPU refuses
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(written))
    answer = folder / "result.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, __file__, "case", str(recipe), str(answer)]
    environment = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"} | os.environ
    with (folder / "log.txt").open("w") as log:
        try:
            code = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=arguments.limit).returncode
        except subprocess.TimeoutExpired:
            return {"recipe": written, "error": f"not done in {arguments.limit} s", "out_of_memory": False}
    if not answer.is_file():
        tail = (folder / "log.txt").read_text(errors="replace")[-3000:]
        return {"recipe": written, "error": f"ended with {code}\n{tail}", "out_of_memory": code in (-9, 137)}
    return {"recipe": written} | json.loads(answer.read_text())


def sft(arguments: argparse.Namespace, work: Path) -> None:
    peak = peak_flops(arguments)
    print(f"{'case':34}{'tokens/s':>10}{'MFU':>8}{'allocated':>11}{'reserved':>10}")

    def finish(case: dict[str, Any], result: dict[str, Any]) -> str:
        if "step_seconds" not in result:
            return told_failure(result)
        tokens = case["max_length"] * case["per_device_train_batch_size"]
        result |= arithmetic(case["model"], case["max_length"], tokens, result, peak)
        rate = tokens / result["step_seconds"]["median"]
        result["tokens_per_second"] = rate
        mfu = f"{result['mfu']:8.1%}" if result["mfu"] is not None else f"{'-':>8}"
        return f"{rate:10,.0f}{mfu}{gib(result.get('peak_allocated')):>11}{gib(result.get('peak_reserved')):>10}"

    run_all("sft", sft_cases(arguments, work), finish, arguments, work, {"peak_bf16_flops": peak})


def grpo(arguments: argparse.Namespace, work: Path) -> None:
    def finish(case: dict[str, Any], result: dict[str, Any]) -> str:
        if "step_seconds" not in result:
            return told_failure(result)
        step = result["step_seconds"]["median"]
        made = case["per_device_train_batch_size"] * case["gradient_accumulation_steps"]
        seconds = result["phases"]["generation"]
        result["generated_tokens_per_second"] = made * result["mean_completion_tokens"] / seconds
        parts = "; ".join(f"{name} {seconds:.2f} s" for name, seconds in result["phases"].items())
        rate = result["generated_tokens_per_second"]
        return f"{step:.2f} s a step: {parts}; {rate:,.0f} tokens/s; {gib(result.get('peak_allocated'))}"

    run_all("grpo", grpo_cases(arguments, work), finish, arguments, work, {})


def run_all(
    name: str, cases: dict[str, dict[str, Any]], finish: Callable[[dict[str, Any], dict[str, Any]], str],
    arguments: argparse.Namespace, work: Path, more: dict[str, Any],
) -> None:  # fmt: skip
    """Run the cases, print a line for each, and write what there is after each."""
    content: dict[str, Any] = {"machine": record.machine(), "smoke": arguments.smoke, "warm_up": WARM_UP} | more
    content["cases"] = {}
    output = arguments.output or (work / f"{name}.json" if arguments.smoke else None)
    path = None
    for case_name, case in cases.items():
        if arguments.only and arguments.only not in case_name:
            continue
        result = measured_case(case_name, case, arguments, work)
        told = finish(case, result)
        content["cases"][case_name] = result
        path = record.write(name, content, output)
        print(f"{case_name:34}{told}", flush=True)
    print(path or f"no case has {arguments.only!r} in its name: {', '.join(cases)}")
    if arguments.smoke and any(result.get("error") for result in content["cases"].values()):
        sys.exit("\n".join(str(result.get("error")) for result in content["cases"].values()))


def told_failure(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return result["skipped"]
    if result["out_of_memory"]:
        return f"out of memory while {result.get('phase', 'running')}, at {gib(result.get('peak_allocated'))}"
    return f"failed: {str(result['error']).strip().splitlines()[-1]}"


def gib(size: float | None) -> str:
    return "-" if size is None else f"{size / 2**30:.1f} GiB"


def arithmetic(model: str, row: int, tokens: int, result: dict[str, Any], peak: float | None) -> dict[str, Any]:
    """The model's operations in a step, as the docstring of this file counts them, and their share of the peak."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**shape(model))
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    total = sum(p.numel() for p in built.parameters())
    embedding = 0 if config.tie_word_embeddings else built.get_input_embeddings().weight.numel()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * head * row * tokens
    usual = 6 * (total - embedding) * tokens + attention
    adapter = result["trained_parameters"]
    own = (
        usual if not result["recipe"].get("use_peft") else (4 * (total - embedding) + 6 * adapter) * tokens + attention
    )
    seconds = result["step_seconds"]["median"]
    shares = {"mfu": own, "mfu_6nd": usual}
    return {"parameters": total, "flops_of_a_step": own} | {
        key: flops / seconds / peak if peak else None for key, flops in shares.items()
    }


def peak_flops(arguments: argparse.Namespace) -> float | None:
    """Of this GPU in bfloat16, from its data sheet or --peak; None for one that is not known, and on a CPU."""
    import torch

    if arguments.peak:
        return arguments.peak * 1e12
    if not torch.cuda.is_available():
        return None
    kind = kind_of(torch.cuda.get_device_name(0))
    print(
        f"taken for {kind.name}, {kind.tflops} TFLOPS" if kind else "its peak is not known; give it by --peak TFLOPS"
    )
    return kind.tflops * 1e12 if kind else None


def kind_of(device: str) -> Any:
    """The GPU of open_r1.system.hardware that a driver's name means: `NVIDIA A100-SXM4-40GB` is A100-40GB."""
    from open_r1.system.hardware import GPUS

    words = re.findall(r"[a-z0-9]+", device.lower())
    words += [a + b for a, b in itertools.pairwise(words)]
    fitting = [gpu for name, gpu in GPUS.items() if set(name.lower().split("-")) <= set(words)]
    return max(fitting, key=lambda gpu: len(gpu.name), default=None)


def story(arguments: argparse.Namespace, work: Path) -> None:
    """The miniature, and one of 92 million parameters: base, then R1-Zero."""
    content: dict[str, Any] = {"machine": record.machine(), "smoke": arguments.smoke, "stories": {}}
    output = arguments.output or (work / "story.json" if arguments.smoke else None)
    sizes: dict[str, dict[str, Any]] = {"tiny": {"base": {}, "zero": {}}, "92M": MIDDLE}
    if arguments.smoke:
        del sizes["tiny"]  # the same commands with fewer keys
    for name, changes in sizes.items():
        if arguments.only and arguments.only not in name:
            continue
        told: dict[str, Any] = {"changes": changes}
        made = {part: work / "story" / name / part for part in ("base", "zero")}
        model = {"model_name_or_path": str(made["base"] / "model")}
        for part, recipe in (("base", "sft/base"), ("zero", "grpo/r1_zero")):
            keys = changes[part] | (model if part == "zero" else {})
            keys |= SMOKE_STORY[part] if arguments.smoke else {}
            told[part] = trained(f"recipes/tiny/{recipe}.yaml", keys, made[part], arguments.limit)
            if told[part]["error"]:
                break
        content["stories"][name] = told
        path = record.write("story", content, output)
        told_zero = told.get("zero", {})
        print(f"{name:6} base {told['base']['seconds']:.0f} s, R1-Zero {told_zero.get('seconds', 0):.0f} s")
        if told_zero.get("summary"):
            for when in ("before", "after"):
                shown = {key: figure["value"] for key, figure in told_zero["summary"][when].items()}
                parts = ", ".join(f"{key} {value:.3g}" for key, value in shown.items() if value is not None)
                print(f"       {when:7} {parts}", flush=True)
        for part in ("base", "zero"):
            if told.get(part, {}).get("error"):
                print(f"       {part} failed: {told[part]['error']}")
        print(path)
    if arguments.smoke and any(s[p]["error"] for s in content["stories"].values() for p in ("base", "zero") if p in s):
        sys.exit(1)


def trained(recipe: str, keys: dict[str, Any], directory: Path, limit: int) -> dict[str, Any]:
    """`open-r1 train` of a recipe as a user types it: seconds by the clock, of a step, and its summary."""
    from open_r1.config.overrides import format_overrides

    keys = keys | {"output_dir": str(directory), "overwrite": True}
    command = [sys.executable, "-m", "open_r1.cli", "train", recipe, *format_overrides(keys)]
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"} | os.environ
    began = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=4 * limit)
    except subprocess.TimeoutExpired:
        return {"seconds": time.perf_counter() - began, "error": f"not done in {4 * limit} s"}
    seconds = time.perf_counter() - began
    if done.returncode:
        return {"seconds": seconds, "error": (done.stdout + done.stderr)[-3000:]}
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    ends = [row["seconds"] for row in rows if "loss" in row]
    apart = [b - a for a, b in itertools.pairwise(ends)]
    summary = directory / "summary.json"
    return {
        "seconds": seconds,
        "error": None,
        "step_seconds": statistics.median(apart) if apart else None,
        "steps": len(ends),
        "summary": json.loads(summary.read_text()) if summary.is_file() else None,
    }


COMMANDS: dict[str, Callable[[argparse.Namespace, Path], None]] = {"sft": sft, "grpo": grpo, "story": story}


def main() -> None:
    if sys.argv[1:2] == ["weights"]:
        return make_weights(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    if sys.argv[1:2] == ["case"]:
        _, _, recipe, answer = sys.argv
        Path(answer).write_text(json.dumps(run_case(recipe), indent=1))
        return None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--only", help="cases with this text in their name")
    parser.add_argument("--steps", type=int, default=5, help="that are measured")
    parser.add_argument("--completion", type=int, default=1024, help="tokens of a completion (grpo)")
    parser.add_argument("--engine", choices=[*ENGINES, "all"], help="that generates (grpo)")
    parser.add_argument("--attention", help="attn_implementation, if not the one a recipe gets")
    parser.add_argument("--peak", type=float, help="TFLOPS of the GPU in bfloat16, if it is not known")
    parser.add_argument(
        "--limit", type=int, default=900, help="seconds that a case may take; four times that a story's"
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="for the tokenizer of Qwen2.5")
    parser.add_argument("--work", type=Path, help="folder for models and runs, kept; a temporary one otherwise")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--smoke", action="store_true", help="toy sizes, on a CPU too")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available() and not arguments.smoke:
        sys.exit("this measures a GPU, and there is none; --smoke runs the same code at toy size")
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
        return COMMANDS[arguments.command](arguments, arguments.work.resolve())
    with tempfile.TemporaryDirectory() as folder:
        COMMANDS[arguments.command](arguments, Path(folder))
    return None


if __name__ == "__main__":
    main()
