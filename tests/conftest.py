"""Small things many tests start from. Nothing here needs a network or a GPU."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support import warm

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

# Two test processes on two cores: more threads than that only fight each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

MODEL = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
}  # fmt: skip
SMALL = {
    "random_init": MODEL,
    "tokenizer_name_or_path": "open_r1.tiny.tokenizer:build",
    "gradient_checkpointing": False,
    "max_steps": 2,
    "save_strategy": "no",
    "seed": 0,
    "report": False,  # to draw it takes longer than the two steps
}
PROBLEMS = {"path": "open_r1.tiny.problems:problems", "args": {"rows": 32, "split": "train"}}
TASKS = {
    "sft": {
        "datasets": [{"path": "open_r1.tiny.problems:pretraining", "args": {"rows": 64}}],
        "per_device_train_batch_size": 4,
        "max_length": 64,
    },
    "grpo": {
        "datasets": [PROBLEMS],
        "rewards": [{"name": "accuracy"}, {"name": "think_format"}],
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "print_every": 0,
    },
    "dpo": {
        "datasets": [{"path": "open_r1.tiny.problems:preferences", "args": {"rows": 32}}],
        "per_device_train_batch_size": 4,
    },
    "reward": {
        "datasets": [{"path": "open_r1.tiny.problems:preferences", "args": {"rows": 32}}],
        "per_device_train_batch_size": 4,
    },
}
SHARDED_TASKS = {
    "sample": {
        "random_init": MODEL,
        "tokenizer_name_or_path": "open_r1.tiny.tokenizer:build",
        "datasets": [PROBLEMS],
        "sampling": {"n": 2, "max_tokens": 8},
        "shard_rows": 8,
        "seed": 0,
        "report": False,
    },
    "select": {
        "datasets": [{"path": "open_r1.tiny.problems:samples", "args": {"rows": 64}}],
        "rewards": [{"name": "accuracy"}, {"name": "think_format"}],
        "filters": [{"name": "correct"}],
        "seed": 0,
        "report": False,
    },
    "evaluate": {
        "random_init": MODEL,
        "tokenizer_name_or_path": "open_r1.tiny.tokenizer:build",
        "benchmarks": [{"name": "tiny", "problems": 8, "k": 4, "max_tokens": 8}],
        "shard_rows": 3,
        "seed": 0,
        "report": False,
    },
    "mix": {
        "datasets": [{"path": "open_r1.tiny.problems:conversations", "args": {"rows": 32}}],
        "seed": 0,
        "report": False,
    },
}


def shared(*parts: str) -> Path:
    """A file of the data that lies beside the checkout; the test skips where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path.name} is not here: the shared data does not lie beside this checkout")
    return path


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """`write_recipe("grpo", max_steps=4)`: a small recipe of a task, with its run directory under tmp_path."""

    def write(task: str, name: str = "recipe", **keys: object) -> Path:
        path = tmp_path / "recipes" / "small" / task / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = SHARDED_TASKS[task] if task in SHARDED_TASKS else SMALL | TASKS[task]
        content = small | {"output_dir": str(tmp_path / "run")} | keys
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not ...}, allow_unicode=True))
        return path

    return write


def command(
    *words: object, timeout: float = 300, fresh: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `open-r1 ...` as a user would; see `warm` for `fresh`."""
    given = ["-m", "open_r1.cli", *words]
    return warm.run(given, cwd=ROOT, env=os.environ | environment, timeout=timeout, fresh=fresh)


def group(*words: object, processes: int = 2) -> str:
    """Run `python WORDS` in several processes as `accelerate launch` does for a CPU; what the first one said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_all = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def start(rank: int) -> subprocess.Popen[str]:
        own = of_all | {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_MIXED_PRECISION": "no"}
        environment = os.environ | {key: str(value) for key, value in own.items()}
        return warm.Popen(words, cwd=ROOT, env=environment, stdout=warm.PIPE, stderr=warm.STDOUT)

    started = [start(rank) for rank in range(processes)]
    try:
        said = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, "".join(said)
    return said[0]


def path_with(folder: Path) -> str:
    """PYTHONPATH with a folder before what it has."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of the package, of which digests are taken; a test may change its files."""
    from open_r1.rewards import registry
    from open_r1.system import source_digest

    copy = tmp_path / "source" / "open_r1"
    shutil.copytree(source_digest.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_digest, "PACKAGE", copy)
    caches = source_digest.find_source, registry.version
    for cache in caches:
        cache.cache_clear()
    yield copy
    for cache in caches:
        cache.cache_clear()
