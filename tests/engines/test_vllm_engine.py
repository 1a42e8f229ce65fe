"""The vllm engine's part of the work, with a module that records what it is asked in vLLM's place."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import trl

from open_r1.config.recipe import Recipe
from open_r1.config.schema import DataConfig, EngineConfig, RunConfig
from open_r1.config.sharded_tasks import SampleConfig
from open_r1.engines import registry
from open_r1.engines.registry import Completion, Sampling, derive_seed
from open_r1.errors import RecipeError
from open_r1.tiny.tokenizer import build

WINDOW = 20


class VLLMServerError(Exception):
    pass


class SamplingParams(SimpleNamespace):
    pass


class LLM:
    """Says `a 4 <eos>` to a prompt of an even number of tokens, and goes on to its limit otherwise."""

    def __init__(self, **given):
        if "nonsense" in given:
            raise TypeError("unexpected keyword argument 'nonsense'")
        self.given = given
        self.model_config = SimpleNamespace(max_model_len=WINDOW)
        self.asked = []

    def generate(self, prompts, parameters, use_tqdm):
        self.asked += list(zip(prompts, parameters, strict=True))
        return [
            self.said(prompt["prompt_token_ids"], asked) for prompt, asked in zip(prompts, parameters, strict=True)
        ]

    def said(self, ids, asked):
        tokenizer = build()
        if len(ids) % 2:
            output = tokenizer("a " * asked.max_tokens)["input_ids"]
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(output), finish_reason="length")])
        output = tokenizer("a 4 <eos>")["input_ids"]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=output, finish_reason="stop")])


@pytest.fixture
def vllm(monkeypatch):
    module, exceptions = ModuleType("vllm"), ModuleType("vllm.exceptions")
    module.LLM, module.SamplingParams, exceptions.VLLMServerError = LLM, SamplingParams, VLLMServerError
    module.__spec__ = importlib.util.spec_from_loader("vllm", loader=None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.exceptions", exceptions)


def recipe(tmp_path: Path, **parameters) -> Recipe:
    init = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 1}  # fmt: skip
    return Recipe(
        task="sample",
        path=Path("recipe.yaml"),
        given={"output_dir": str(tmp_path)},
        args=SampleConfig(engine=EngineConfig("vllm", parameters)),
        model=trl.ModelConfig(dtype="bfloat16"),
        data=DataConfig(tokenizer_name_or_path="open_r1.tiny.tokenizer:build"),
        run=RunConfig(random_init=init),
    )


def test_without_vllm_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(RecipeError, match="make install EXTRAS=gpu"):
        registry.find_engine("vllm")(recipe(tmp_path))
    monkeypatch.delitem(sys.modules, "vllm")
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(RecipeError, match="make install EXTRAS=gpu"):
            registry.check_engine(EngineConfig("vllm"))


def test_requests_and_completions(vllm, tmp_path):
    engine = registry.open_engine(recipe(tmp_path, tensor_parallel_size=2))
    given = engine.llm.given
    assert given["tensor_parallel_size"] == 2 and given["dtype"] == "bfloat16" and given["model"] == engine.model
    even, odd, opened = "add a", "add b 4", "add a <think> <think>"
    progress = []
    sampling = Sampling(temperature=0.6, top_p=0.95, max_tokens=5, stop=("4",), seed=8)
    found = engine.generate(
        [even, odd, "add " * 30, opened], 2, sampling, rows=[4, 5, 6, 7], done=lambda *counts: progress.append(counts)
    )
    assert found[0] == [Completion("a ", 3, "stop")] * 2
    assert found[1] == [Completion("a a a a a", 5, "length")] * 2
    assert found[2][0].refused == "the prompt has 30 tokens, and the model's window 20"
    assert found[3][0].text == "<think>a "
    assert progress == [(8, 2 * (3 + 5 + 0 + 3))]
    assert [asked.seed for _, asked in engine.llm.asked] == [
        derive_seed(8, row, i) for row in (4, 5, 7) for i in (0, 1)
    ]
    assert {
        (asked.temperature, asked.top_p, asked.top_k, tuple(asked.stop), tuple(asked.stop_token_ids))
        for _, asked in engine.llm.asked
    } == {(0.6, 0.95, -1, ("4",), (build().eos_token_id,))}
    assert engine.llm.asked[0][0] == {"prompt_token_ids": build()(even)["input_ids"]}


def test_max_tokens_end_at_the_window(vllm, tmp_path):
    engine = registry.open_engine(recipe(tmp_path))
    found = engine.generate(["add " * 17, "add " * 20], 1, Sampling(max_tokens=8, top_k=3))
    assert found[0] == [Completion("a a a", 3, "length")] and "fills the model's window" in found[1][0].refused
    assert engine.llm.asked[0][1].top_k == 3 and len(engine.llm.asked) == 1


def test_what_vllm_refuses_is_a_recipes_mistake(vllm, tmp_path):
    with pytest.raises(RecipeError, match=r"vLLM does not start .*'nonsense'"):
        registry.open_engine(recipe(tmp_path, nonsense=1))
    with pytest.raises(RecipeError, match=r"engine\.seed"):
        registry.open_engine(recipe(tmp_path, seed=1))


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), VLLMServerError("EngineCore encountered an issue")])
def test_an_engine_that_dies_stops_the_run_with_advice(vllm, tmp_path, error):
    engine = registry.open_engine(recipe(tmp_path))

    def generate(*args, **kwargs):
        raise error

    engine.llm.generate = generate
    with pytest.raises(RecipeError, match=f"vLLM died .*{error}.*the same command continues"):
        engine.generate(["add a"], 1, Sampling())


def test_a_core_that_is_gone_is_noticed_though_vllm_waits(vllm, tmp_path):
    engine = registry.open_engine(recipe(tmp_path))
    engine.llm.generate = lambda *args, **kwargs: time.sleep(60)
    engine.cores = [SimpleNamespace(is_alive=lambda: False)]
    began = time.monotonic()
    with pytest.raises(RecipeError, match="its core process has ended"):
        engine.generate(["add a"], 1, Sampling())
    assert time.monotonic() - began < 10


def test_a_completion_broken_off_is_none(vllm, tmp_path):
    engine = registry.open_engine(recipe(tmp_path))
    broken = SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5], finish_reason="abort")])
    engine.llm.generate = lambda prompts, *args, **kwargs: [broken] * len(prompts)
    with pytest.raises(RecipeError, match="'abort'"):
        engine.generate(["add a"], 1, Sampling())
