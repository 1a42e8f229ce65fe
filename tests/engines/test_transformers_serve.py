"""The server engine against `transformers serve`, beside the transformers engine on the same model."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
import trl
from conftest import MODEL
from support.standin import free_port
from transformers import LlamaConfig, LlamaForCausalLM

from open_r1.config.recipe import Recipe
from open_r1.config.schema import DataConfig, EngineConfig, RunConfig
from open_r1.config.sharded_tasks import SampleConfig
from open_r1.engines import registry
from open_r1.engines.registry import Sampling
from open_r1.tiny.tokenizer import build

PROMPTS = ["add a 4 b 5 last digit ?", "add c 1", [{"role": "user", "content": "add a 4 b 5"}]]
MISSING = [package for package in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(package) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"transformers[serving] is not installed: no {MISSING}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tokenizer = build()
    torch.manual_seed(0)
    values = {k: v for k, v in MODEL.items() if k != "model_type"}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=1, pad_token_id=0, **values)
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def url(saved, tmp_path_factory):
    port, log = free_port(), tmp_path_factory.mktemp("log") / "serve.log"
    words = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        saved,
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    with log.open("wb") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"transformers serve did not start:\n{log.read_text()[-2000:]}")


def opened(saved: Path, name: str, **parameters):
    recipe = Recipe(
        task="sample",
        path=Path("recipe.yaml"),
        given={"output_dir": "unused"},
        args=SampleConfig(engine=EngineConfig(name, parameters)),
        model=trl.ModelConfig(model_name_or_path=str(saved), dtype="float32"),
        data=DataConfig(),
        run=RunConfig(),
    )
    return registry.open_engine(recipe)


@pytest.fixture(scope="module")
def server(saved, url):
    return opened(saved, "server", endpoints=url, model_name=str(saved), dialect="transformers", patience=60)


def test_greedy_is_the_same_as_in_this_process(saved, server):
    greedy = Sampling(temperature=0, max_tokens=20)
    assert server.generate(PROMPTS, 2, greedy) == opened(saved, "transformers").generate(PROMPTS, 2, greedy)


def test_samples_repeat_by_seed_and_row_and_differ_otherwise(server):
    drawn = Sampling(temperature=1.0, max_tokens=12, seed=3)
    found = server.generate(PROMPTS, 3, drawn)
    assert server.generate(PROMPTS[::-1], 3, drawn, [2, 1, 0])[::-1] == found
    texts = [completion.text for completions_N in found for completion in completions_N]
    assert len(set(texts)) == 9
    assert {completion.finish_reason for completions_N in found for completion in completions_N} <= {"stop", "length"}
    assert server.generate(PROMPTS[:1], 3, Sampling(max_tokens=12, seed=4)) != found[:1]


def test_the_distribution_is_the_requests_own(server):
    """Without it, transformers would not sample at all, or keep the likeliest 50 tokens."""
    vocabulary = len(build())
    flat = server.generate(PROMPTS[:1], 3 * vocabulary, Sampling(temperature=1000.0, max_tokens=1))[0]
    assert len({completion.text for completion in flat}) > 60
    narrow = server.generate(PROMPTS[:1], 40, Sampling(temperature=1000.0, top_k=2, max_tokens=1))[0]
    assert len({completion.text for completion in narrow}) == 2
