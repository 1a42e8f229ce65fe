"""Tokens per second of each engine on a CPU, beside a bare `model.generate`.

    python benchmarks/engines.py [--rounds 3] [--vllm PYTHON]

A Llama of 0.24M parameters (hidden size 96, 2 layers, 3 heads of 32) that was never trained completes 64 prompts of
the miniature, 4 times each, up to 128 tokens; counted are the tokens it made, end tokens included. Every engine gets
the same sampling and the same prompts (`transformers serve`, which takes one request at a time, the first 8). Printed
are medians over the rounds, and how many times the bare loop's that is: the same prompts through
`generate(do_sample=True)` in batches of 64, which is what a user would write. Servers run on this machine and share
its cores. vLLM is measured where PYTHON, an interpreter that has it, is named; it gets 1 GiB for its cache and runs
without compilation (`enforce_eager`).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}  # GiB
PROMPTS, SAMPLES, MAX_TOKENS, BATCH = 64, 4, 128, 64
MODEL = {
    "model_type": "llama", "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 3, "num_key_value_heads": 3, "max_position_embeddings": 512, "initializer_range": 0.1,
}  # fmt: skip


def recipe(folder: str, engine: str, **parameters: Any) -> Any:
    import trl

    from open_r1.config.recipe import Recipe
    from open_r1.config.schema import DataConfig, EngineConfig, RunConfig
    from open_r1.config.sharded_tasks import SampleConfig

    return Recipe(
        task="sample",
        path=Path("benchmark.yaml"),
        given={"output_dir": folder},
        args=SampleConfig(engine=EngineConfig(engine, parameters)),
        model=trl.ModelConfig(dtype="float32"),
        data=DataConfig(tokenizer_name_or_path="open_r1.tiny.tokenizer:build"),
        run=RunConfig(random_init=MODEL),
    )


def prompts(count: int = PROMPTS) -> list[str]:
    from open_r1.tiny.problems import problems

    return [row["prompt"][0]["content"] for row in problems(rows=count, split="train", seed=0)]


def tokens_per_second(engine: Any, seed: int, count: int = PROMPTS) -> float:
    from open_r1.engines.registry import Sampling

    start = time.perf_counter()
    completions_PN = engine.generate(prompts(count), SAMPLES, Sampling(max_tokens=MAX_TOKENS, seed=seed))
    seconds = time.perf_counter() - start
    return sum(completion.tokens for completions_N in completions_PN for completion in completions_N) / seconds


def bare(engine: Any, seed: int) -> float:
    """The loop around `generate`, with the model and tokenizer of the transformers engine."""
    import torch

    model, tokenizer = engine.weights, engine.tokenizer
    torch.manual_seed(seed)
    texts = [prompt for prompt in prompts() for _ in range(SAMPLES)]
    start, tokens = time.perf_counter(), 0
    for first in range(0, len(texts), BATCH):
        inputs = tokenizer(texts[first : first + BATCH], return_tensors="pt", padding=True)
        with torch.no_grad():
            output = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=True,
                top_k=0, max_new_tokens=MAX_TOKENS,
            )  # fmt: skip
        made = output[:, inputs["input_ids"].shape[1] :]
        tokenizer.batch_decode(made, skip_special_tokens=True)
        ends = (made == tokenizer.eos_token_id).int()
        tokens += int((ends.cumsum(1) - ends == 0).sum())
    return tokens / (time.perf_counter() - start)


@contextlib.contextmanager
def served(words: list[str], log: Path) -> Iterator[str]:
    """The base url of a server process, once it answers."""
    port = free_port()
    environment = os.environ | ENVIRONMENT
    with log.open("wb") as output:
        process = subprocess.Popen([*words, "--port", str(port)], stdout=output, stderr=output, env=environment)
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            time.sleep(0.2)
        else:
            raise SystemExit(f"{' '.join(words)} did not start:\n{log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def vllm_rounds(folder: str, rounds: int) -> None:
    """Run by an interpreter that has vLLM: one number for each round, as JSON."""
    from open_r1.engines import registry

    engine = registry.open_engine(recipe(folder, "vllm", enforce_eager=True, gpu_memory_utilization=0.05))
    tokens_per_second(engine, 0)
    print(json.dumps([tokens_per_second(engine, seed) for seed in range(1, rounds + 1)]))
    engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vllm", metavar="PYTHON")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return vllm_rounds(arguments.inside, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        measure(folder, arguments.rounds, arguments.vllm)


def measure(folder: str, rounds: int, vllm: str | None) -> None:
    import torch

    from open_r1.engines import registry

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print(
        f"load {os.getloadavg()[0]:.1f}, {rounds} rounds of {PROMPTS} prompts x {SAMPLES}, up to {MAX_TOKENS} tokens"
    )
    local = registry.open_engine(recipe(folder, "transformers", batch_size=BATCH))
    bare(local, 0)  # warms up
    pairs = [(bare(local, seed), tokens_per_second(local, seed)) for seed in range(1, rounds + 1)]
    base = statistics.median(rate for rate, _ in pairs)
    found: dict[str, dict[str, float]] = {}
    show = functools.partial(line, found, base)
    show("bare generate", [rate for rate, _ in pairs])
    show("transformers", [rate for _, rate in pairs])
    for name, (words, dialect, concurrency, count) in servers(local.model, vllm).items():
        with served(words, Path(folder) / "server.log") as url:
            parameters = {"endpoints": url, "model_name": local.model, "dialect": dialect, "concurrency": concurrency}
            engine = registry.open_engine(recipe(folder, "server", **parameters))
            tokens_per_second(engine, 0, count)
            show(name, [tokens_per_second(engine, seed, count) for seed in range(1, rounds + 1)])
    if vllm:
        words = [vllm, __file__, "--rounds", str(rounds), "--inside", folder]
        source = str(Path(registry.__file__).parents[2])
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": source}
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        show("vllm in process", json.loads(done.stdout.splitlines()[-1]))
    record.store("engines", rounds=rounds, engines=found)


def servers(model: str, vllm: str | None) -> dict[str, tuple[list[str], str, int, int]]:
    """Command, dialect, concurrency and number of prompts of each server."""
    serve = [str(Path(sys.executable).with_name("transformers")), "serve", model, "--host", "127.0.0.1"]
    batched = [*serve, "--continuous-batching", "--cb-max-memory-percent", "0.05"]
    found = {
        "transformers serve": (serve, "transformers", 1, 8),
        "transformers serve, continuous batching": (batched, "transformers", 32, PROMPTS),
    }
    if vllm:
        words = [vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", "float32"]
        words += ["--enforce-eager", "--gpu-memory-utilization", "0.05"]
        found["vllm server"] = (words, "vllm", 64, PROMPTS)
    return found


def line(found: dict[str, dict[str, float]], base: float, name: str, rates: list[float]) -> None:
    rate = statistics.median(rates)
    found[name] = {"tokens_per_second": rate, "ratio": rate / base}
    print(f"{name:40} {rate:8.0f} tokens/s {rate / base:6.2f} times", flush=True)


if __name__ == "__main__":
    main()
