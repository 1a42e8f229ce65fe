"""Step time of our GRPO and SFT against TRL's own scripts on the same recipe.

    python benchmarks/overhead.py [--pairs 5] [--steps 40]

Both run the same model, rows and trainer arguments in processes of their own, in turn: ours, TRL's, ours, TRL's ...
A step is what passes between two `on_step_end` of the trainer: batch, generation, reward, forward, backward, logging.
The reward is the same trivial function for both, so that only the plumbing differs. Printed: median step of each, and
the median over the pairs of ours / TRL's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record
import yaml

WARM_UP = 5  # steps not counted: caches, first allocation
MODEL = {
    "model_type": "qwen2", "hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
COMMON = {
    "seed": 0, "save_strategy": "no", "gradient_checkpointing": False, "bf16": False, "use_cpu": True,
    "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "learning_rate": 1.0e-4, "dtype": "float32",
}  # fmt: skip
TASKS = {
    "grpo": {
        "per_device_train_batch_size": 32, "num_generations": 16, "max_completion_length": 32, "beta": 0.001,
        "loss_type": "grpo", "use_bias_correction_kl": False, "log_completions": True, "num_completions_to_print": 0,
    },
    "sft": {"per_device_train_batch_size": 16, "max_length": 128},
}  # fmt: skip


def length_reward(completions: list, **kwargs: object) -> list[float]:
    """TRL's form of the reward."""
    return [length_score(completion[0]["content"]) for completion in completions]


def length_score(completion: str) -> float:
    """Ours."""
    return len(completion) % 7 / 7


def child(side: str, task: str, recipe: str, result: str) -> None:
    """One run in this process; step durations (s) as JSON to `result`."""
    import transformers.trainer
    from transformers import TrainerCallback

    ends: list[float] = []

    class Timer(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            ends.append(time.perf_counter())

    transformers.trainer.DEFAULT_CALLBACKS.append(Timer)
    sys.path.insert(0, str(Path(__file__).parent))
    if side == "ours":
        import importlib

        from open_r1.config.loading import load_recipe

        importlib.import_module(f"open_r1.{task}").main(load_recipe(recipe))
    else:
        sys.argv = [f"trl.scripts.{task}", "--config", recipe]
        runpy.run_module(f"trl.scripts.{task}", run_name="__main__")
    Path(result).write_text(json.dumps([b - a for a, b in itertools.pairwise(ends)][WARM_UP:]))


def prepare(folder: Path, steps: int) -> dict[tuple[str, str], Path]:
    """Model, rows, and a recipe for each side and task."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from open_r1.models import byte_tokenizer
    from open_r1.tiny import problems

    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(**MODEL, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for task, maker in (("grpo", problems.problems(0, 4096, "train")), ("sft", problems.pretraining(0, 4096))):
        (folder / task).mkdir()
        maker.to_json(folder / task / "train.jsonl")
    recipes = {}
    for task, keys in TASKS.items():
        shared = COMMON | keys | {"max_steps": steps, "model_name_or_path": str(folder / "model")}
        rows = str(folder / task / "train.jsonl")
        reward = {"reward_funcs": ["overhead.length_reward"]} if task == "grpo" else {}
        ours = {"rewards": [{"name": "overhead:length_score"}], "print_every": 0} if task == "grpo" else {}
        sides = {
            "ours": shared | ours | {"task": task, "datasets": [{"path": rows}], "overwrite": True},
            "trl": shared | reward | {"dataset_name": str(folder / task)},
        }
        for side, content in sides.items():
            path = folder / f"{side}_{task}.yaml"
            path.write_text(yaml.safe_dump(content | {"output_dir": str(folder / f"run_{side}_{task}")}))
            recipes[side, task] = path
    return recipes


def measure(side: str, task: str, recipe: Path) -> float:
    """Median step of one run (s)."""
    result = recipe.with_suffix(".json")
    command = [sys.executable, __file__, "--child", side, task, str(recipe), str(result)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return statistics.median(json.loads(result.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(*arguments.child)
    with tempfile.TemporaryDirectory() as folder:
        recipes = prepare(Path(folder), arguments.steps)
        found = {}
        for task in TASKS:
            pairs = [
                [measure(side, task, recipes[side, task]) for side in ("ours", "trl")] for _ in range(arguments.pairs)
            ]
            ours, trl = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            found[task] = {"ours_ms": ours, "trl_ms": trl, "ratio": ratio}
            print(f"{task}: ours {ours:.1f} ms, TRL {trl:.1f} ms a step; ours / TRL {ratio:.3f}", flush=True)
    record.store("overhead", pairs=arguments.pairs, **found)


if __name__ == "__main__":
    main()
