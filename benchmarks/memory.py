"""The estimator's memory beside what a training really takes at its fullest.

Each case is a recipe with a model of random weights, run for two steps by the project's own task in a process of its
own. On a CPU its resident memory is measured, from just before the trainer loads the model to its peak, by the kernel
(VmHWM); freed blocks go back to it at once. On a GPU it is what PyTorch allocated at its peak, with the state of the
model, and without CUDA's own context and what the allocator reserves beyond.

    python benchmarks/memory.py                   # on a CPU: models of 42 to 500 million parameters
    python benchmarks/memory.py --gpu             # on a GPU: Qwen2.5-1.5B and 7B
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import record
import yaml

GIB = 2**30
TEMPLATE = 24  # tokens of a question of one letter and the marks of turns around it
# hidden size, intermediate size, layers, heads, key-value heads, vocabulary
SHAPES = {
    "42M": (512, 2048, 8, 8, 2, 32_768),
    "134M": (768, 3072, 12, 12, 4, 32_768),
    "0.5B": (896, 4864, 24, 14, 2, 151_936),
}
LORA = {"use_peft": True, "lora_r": 32, "lora_alpha": 64, "lora_target_modules": ["all-linear"]}
QLORA = LORA | {"load_in_4bit": True, "dtype": "bfloat16"}
NO = {"gradient_checkpointing": False}
# name: task, shape, tokens of a row, rows at a time, further keys
CPU_CASES: dict[str, tuple[str, str, int, int, dict[str, Any]]] = {
    "sft": ("sft", "42M", 384, 2, {}),
    "sft, nothing computed again": ("sft", "42M", 384, 2, NO),
    "sft, long rows": ("sft", "42M", 1024, 1, NO),
    "sft, LoRA": ("sft", "42M", 384, 2, LORA | NO),
    "sft, QLoRA": ("sft", "42M", 256, 2, QLORA),
    "sft, 134M": ("sft", "134M", 256, 1, NO),
    "sft, 0.5B": ("sft", "0.5B", 64, 1, {}),
    "dpo": ("dpo", "42M", 256, 1, NO),
    "reward": ("reward", "42M", 384, 1, NO),
    "grpo": ("grpo", "42M", 96, 8, {}),
    "grpo, LoRA": ("grpo", "42M", 96, 8, LORA),
    "grpo, QLoRA": ("grpo", "42M", 64, 4, QLORA),
}
GPU_CASES: dict[str, tuple[str, str, int, int, dict[str, Any]]] = {
    "sft, 1.5B": ("sft", "Qwen/Qwen2.5-1.5B", 8192, 1, {}),
    "sft, 1.5B, 32k": ("sft", "Qwen/Qwen2.5-1.5B", 32768, 1, {}),
    "sft, 1.5B, LoRA": ("sft", "Qwen/Qwen2.5-1.5B", 8192, 1, LORA | {"dtype": "bfloat16"}),
    "sft, 1.5B, QLoRA": ("sft", "Qwen/Qwen2.5-1.5B", 8192, 1, QLORA),
    "sft, 7B, LoRA": ("sft", "Qwen/Qwen2.5-7B", 8192, 1, LORA | {"dtype": "bfloat16"}),
    "sft, 7B, QLoRA, 32k": ("sft", "Qwen/Qwen2.5-7B", 32768, 1, QLORA),
    "grpo, 1.5B": ("grpo", "Qwen/Qwen2.5-1.5B", 1024, 16, {}),
    "grpo, 7B, QLoRA": ("grpo", "Qwen/Qwen2.5-7B", 1024, 8, QLORA),
}


def recipe(folder: Path, case: tuple[str, str, int, int, dict[str, Any]], gpu: bool) -> Path:
    """The recipe of a case, with rows that are as long as they may be."""
    task, shape, tokens, rows, keys = case
    filled = "abc " * tokens  # a byte is a token
    prompt = [{"role": "user", "content": "a"}]
    # A reward model's rows that are too long are left out; others are cut.
    length = tokens - TEMPLATE if task == "reward" else 2 * tokens
    answers = [{"role": "assistant", "content": text[:length]} for text in (filled, filled[1:])]
    row: dict[str, Any] = {"messages": [*prompt, answers[0]]}
    if task in ("dpo", "reward"):
        row = {"prompt": prompt, "chosen": [answers[0]], "rejected": [answers[1]]}
    if task == "grpo":
        row = {"prompt": prompt, "solution": "4"}
    data = folder / "rows.jsonl"
    shorter = json.loads(json.dumps(row).replace(answers[0]["content"], answers[0]["content"][: tokens - 20]))
    data.write_text((json.dumps(row) + "\n" + json.dumps(shorter) + "\n") * 32)
    written = {
        "tokenizer_name_or_path": "open_r1.models:byte_tokenizer", "datasets": [{"path": str(data)}],
        "per_device_train_batch_size": rows, "gradient_accumulation_steps": 1, "max_steps": 2, "save_strategy": "no",
        "random_init": random_init(shape), "output_dir": str(folder / "run"), "report": False,
    }  # fmt: skip
    if task == "grpo":
        # Greedy, a random model would repeat itself; it hardly ever draws the token that ends.
        written |= {
            "max_completion_length": tokens, "vllm_max_model_length": tokens + TEMPLATE, "num_generations": rows,
            "rewards": [{"name": "think_format"}],
            "preflight": False, "print_every": 0,
        }  # fmt: skip
    else:
        written["max_length"] = tokens
    written |= {"gpus": 1} if gpu else {}
    path = folder / task / "case.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(written | keys))
    return path


def random_init(shape: str) -> dict[str, Any]:
    if shape not in SHAPES:
        from open_r1.config import architectures

        return architectures.find_architecture(shape)
    hidden, intermediate, layers, heads, kv, vocabulary = SHAPES[shape]
    return {
        "model_type": "qwen2", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocabulary, "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    }  # fmt: skip


def measured(path: str) -> None:
    """In a process of its own: run the recipe and print the bytes that the training took."""
    import ctypes
    import gc
    import importlib

    import torch
    import trl

    from open_r1.config.loading import load_recipe
    from open_r1.launch.local import find_task_module
    from open_r1.system import processes

    processes.keep_freed_memory = lambda: None  # which is for speed, and would hide what is in use
    loaded = load_recipe(path)
    gpu = torch.cuda.is_available()
    trainer = {"sft": "SFTTrainer", "grpo": "GRPOTrainer", "dpo": "DPOTrainer", "reward": "RewardTrainer"}[loaded.task]
    cls = getattr(trl, trainer)
    begin = cls.__init__
    before: list[int] = []

    def status(key: str) -> int:
        text = Path("/proc/self/status").read_text()
        return 1024 * int(next(line for line in text.splitlines() if line.startswith(key)).split()[1])

    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        # What PyTorch sets up at the first product and its gradient is not the model's.
        warm = torch.nn.Linear(512, 512)
        warm(torch.randn(512, 512)).sum().backward()
        Path("/proc/self/clear_refs").write_text("5")
        before.append(status("VmRSS"))
        begin(self, *args, **kwargs)

    cls.__init__ = recorded
    importlib.import_module(find_task_module(loaded.task)).main(loaded)
    taken = torch.cuda.max_memory_allocated() if gpu else status("VmHWM") - before[0]
    reserved = torch.cuda.max_memory_reserved() if gpu else None
    print("\n" + json.dumps({"bytes": taken, "reserved": reserved}))


def estimated(path: Path, gpu: str | None) -> tuple[float, float]:
    """Bytes by the estimator, without what is no tensor; and with it."""
    from open_r1.estimate import estimate, workload

    recipe = workload.load_planned_recipe(path, {"gpu_type": gpu} if gpu else {})
    memory = estimate.estimate_recipe(recipe).memory
    whole = memory.peak
    memory.state.pop("CUDA and NCCL", None)
    memory.step.pop("fragmentation", None)
    return memory.peak, whole


def in_a_process(path: Path, gpu: bool) -> dict[str, Any]:
    """What `measured` says of a recipe.

    Raises:
        RuntimeError: it failed; with its last line.
    """
    blocks = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    environment = {"OMP_NUM_THREADS": "2"} | os.environ | ({} if gpu else blocks)
    command = [sys.executable, __file__, "--measure", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not said:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return json.loads(said[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--gpu-type", default="H100", help="a name of open_r1.system.hardware")
    parser.add_argument("--only", nargs="+", help="names of cases")
    parser.add_argument("--output", help="default: results/memory_<gpu>.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured(arguments.measure)
        return
    rows: list[dict[str, Any]] = []
    print(f"{'case':<30}{'measured':>10}{'estimated':>11}{'':>8}   GiB")
    for name, case in (GPU_CASES if arguments.gpu else CPU_CASES).items():
        if arguments.only and name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = recipe(Path(folder), case, arguments.gpu)
            try:
                told = in_a_process(path, arguments.gpu)
            except RuntimeError as error:
                rows.append({"case": name, "failed": str(error)})
                print(f"{name:<30} failed: {error}")
                continue
            tensors, whole = estimated(path, arguments.gpu_type if arguments.gpu else None)
        ratio = round(tensors / told["bytes"], 4)
        in_gib = {
            "measured_gib": told["bytes"] / GIB,
            "estimated_gib": tensors / GIB,
            "difference": tensors / told["bytes"] - 1,
        }
        rows.append({"case": name, **told, "estimated": tensors, "with_overhead": whole, "ratio": ratio, **in_gib})
        print(f"{name:<30}{told['bytes'] / GIB:>10.2f}{tensors / GIB:>11.2f}{ratio - 1:>+8.1%}", flush=True)
        output = Path(arguments.output) if arguments.output else None
        record.write("memory", {"machine": record.machine(), "cases": rows}, output)


if __name__ == "__main__":
    main()
