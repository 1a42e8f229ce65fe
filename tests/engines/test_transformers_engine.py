"""The transformers engine: what it draws, where completions end, and that nothing else in the batch matters."""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import torch
import trl
from conftest import MODEL
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from open_r1.config.recipe import Recipe
from open_r1.config.schema import DataConfig, EngineConfig, RunConfig
from open_r1.config.sharded_tasks import SampleConfig
from open_r1.engines import registry
from open_r1.engines.decoding import BLOCK, SeededDraw, build_warpers, invert_cdf
from open_r1.engines.registry import Completion, Sampling, derive_seed
from open_r1.engines.transformers import tokenize_prompt
from open_r1.errors import RecipeError
from open_r1.models import byte_tokenizer
from open_r1.tiny.tokenizer import build

PROMPTS = [f"{'add a 4 b 5 ' * (i % 4)}c {i} last digit ?" for i in range(9)]
DRAWN = Sampling(temperature=1.3, top_p=0.95, top_k=40, max_tokens=24, seed=5)


def flat(completions_PN: list[list[Completion]]) -> list[Completion]:
    return list(itertools.chain.from_iterable(completions_PN))


def recipe(model: Path | None = None, tokenizer: str | None = "open_r1.tiny.tokenizer:build", **keys) -> Recipe:
    return Recipe(
        task="sample",
        path=Path("recipe.yaml"),
        given={"output_dir": "unused"},
        args=SampleConfig(engine=EngineConfig("transformers", keys)),
        model=trl.ModelConfig(model_name_or_path=model and str(model), dtype="float32"),
        data=DataConfig(tokenizer_name_or_path=tokenizer),
        run=RunConfig(),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A tiny float32 model whose published generation_config is full of taste."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = build()
    torch.manual_seed(0)
    values = {k: v for k, v in MODEL.items() if k != "model_type"}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=0, **values)
    )
    taste = {"do_sample": True, "repetition_penalty": 5.0, "top_k": 2, "temperature": 0.2, "min_new_tokens": 3}
    model.generation_config.update(**taste)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(saved):
    return registry.open_engine(recipe(saved, batch_size=64))


@pytest.fixture(scope="module")
def drawn(engine):
    return engine.generate(PROMPTS, 4, DRAWN)


def test_completions_are_what_was_asked_for(engine, drawn):
    assert [len(drawn_N) for drawn_N in drawn] == [4] * len(PROMPTS)
    everything = flat(drawn)
    assert {completion.finish_reason for completion in everything} == {"stop", "length"}
    for completion in everything:
        assert completion.refused is None and 1 <= completion.tokens <= 24
        # Every word of the miniature's language is one token, and so is the end token that decoding leaves out.
        words = len(completion.text.split()) + (completion.finish_reason == "stop")
        assert words <= completion.tokens and (completion.finish_reason == "stop" or completion.tokens == 24)
    assert len({completion.text for completion in everything}) > 30


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_change_nothing(engine, drawn, monkeypatch, batch_size):
    monkeypatch.setattr(engine, "batch_size", batch_size)
    assert engine.generate(PROMPTS, 4, DRAWN) == drawn


def test_order_changes_nothing(engine, drawn):
    rows = list(range(len(PROMPTS)))[::-1]
    assert engine.generate(PROMPTS[::-1], 4, DRAWN, rows)[::-1] == drawn


def test_split_calls_change_nothing(engine, drawn):
    first = engine.generate(PROMPTS[:2], 4, DRAWN, rows=[0, 1])
    rest = engine.generate(PROMPTS[2:], 4, DRAWN, rows=list(range(2, len(PROMPTS))))
    assert first + rest == drawn


def test_fewer_samples_are_the_first_of_more(engine, drawn):
    assert engine.generate(PROMPTS, 1, DRAWN) == [drawn_N[:1] for drawn_N in drawn]


def test_a_longer_limit_continues_the_same_draws(engine, drawn):
    longer = engine.generate(PROMPTS, 4, Sampling(**{**vars(DRAWN), "max_tokens": BLOCK + 20}))
    for short, long in zip(flat(drawn), flat(longer), strict=True):
        assert long == short if short.finish_reason == "stop" else long.text.startswith(short.text)
    assert any(completion.tokens > BLOCK for completion in flat(longer))


def test_row_sample_and_seed_each_matter(engine, drawn):
    texts = [completion.text for completion in drawn[1]]
    assert len(set(texts)) == 4
    assert [c.text for c in engine.generate(PROMPTS[1:2], 4, DRAWN, rows=[2])[0]] != texts
    assert [c.text for c in engine.generate(PROMPTS, 4, Sampling(**{**vars(DRAWN), "seed": 6}))[1]] != texts


def test_the_global_stream_is_neither_used_nor_moved(engine, drawn):
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    assert engine.generate(PROMPTS, 4, DRAWN) == drawn
    assert torch.equal(torch.random.get_rng_state(), before)


def test_greedy_is_what_transformers_takes(engine, saved):
    model, tokenizer = LlamaForCausalLM.from_pretrained(saved), build()
    found = engine.generate(PROMPTS, 2, Sampling(temperature=0, max_tokens=16))
    for prompt, found_N in zip(PROMPTS, found, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        taste = {"repetition_penalty": 1.0, "min_new_tokens": 0, "do_sample": False, "top_k": 0, "temperature": 1.0}
        said = model.generate(ids, max_new_tokens=16, **taste)[0, ids.shape[1] :]
        assert found_N[0] == found_N[1]
        assert found_N[0].text == tokenizer.decode(said, skip_special_tokens=True) and found_N[0].tokens == len(said)


def test_conversations_go_through_the_chat_template(engine):
    messages = [{"role": "user", "content": "add a 4 b 5"}]
    plain = engine.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert engine.generate([messages], 3, DRAWN) == engine.generate([plain], 3, DRAWN)
    assert engine.generate([messages], 3, DRAWN) != engine.generate(["add a 4 b 5"], 3, DRAWN)


def test_an_opened_think_is_put_back_as_it_stood(engine):
    """The miniature's tokenizer reads both prompts alike, so the completions are the same."""
    (inside,), (broken,), (past,) = engine.generate(
        ["add <think>", "add <think>\n", "add <think> a"], 1, DRAWN, rows=[1, 1, 1]
    )
    assert inside.text.startswith("<think>") and broken.text == "<think>\n" + inside.text.removeprefix("<think>")
    assert not past.text.startswith("<think>")


@pytest.mark.parametrize("stop", [("a",), ("8", "makes"), ("a 4 never",)])
def test_stop_texts_are_cut_off(engine, stop):
    free = flat(engine.generate(PROMPTS, 4, Sampling(max_tokens=60)))
    stopped = flat(engine.generate(PROMPTS, 4, Sampling(max_tokens=60, stop=stop)))
    assert any(stop_text in completion.text for completion in free for stop_text in stop) == ("never" not in stop[0])
    for without, found in zip(free, stopped, strict=True):
        ends = [without.text.find(text) for text in stop if text in without.text]
        if ends:
            assert found.text == without.text[: min(ends)] and found.finish_reason == "stop"
            assert found.tokens <= without.tokens
        else:
            assert found == without


def test_a_stop_text_of_the_prompt_ends_nothing(engine):
    assert engine.generate(["add a 4 digit"], 1, Sampling(max_tokens=5, stop=("digit",)))[0][0].tokens > 1


def test_any_end_token_of_the_model_ends_it(saved, tmp_path):
    model = LlamaForCausalLM.from_pretrained(saved)
    model.generation_config.eos_token_id = [7, 9]
    model.save_pretrained(tmp_path)
    engine = registry.open_engine(recipe(tmp_path))
    ends = {engine.tokenizer.eos_token_id, 7, 9}
    for completion in flat(engine.generate(PROMPTS, 4, Sampling(max_tokens=120))):
        ids = engine.tokenizer(completion.text)["input_ids"]
        assert not ends & set(ids[:-1])
        assert completion.finish_reason == "stop" or (completion.tokens == 120 and ids[-1] not in ends)


def test_a_prompt_longer_than_the_window_is_refused_with_the_numbers(engine):
    window = MODEL["max_position_embeddings"]
    prompts = ["add " * (window + 44), "add " * window, "add " * (window - 3), "add"]
    long, full, tight, short = engine.generate(prompts, 2, Sampling(temperature=0, max_tokens=8))
    assert long == [Completion(None, 0, "refused", "the prompt has 300 tokens, and the model's window 256")] * 2
    assert "fills the model's window of 256 tokens" in full[0].refused and full[0].text is None
    assert tight[0].tokens == 3 and tight[0].finish_reason == "length"
    assert short[0].tokens == 8 or short[0].finish_reason == "stop"


def test_a_prompt_that_cannot_be_read_is_refused(engine, monkeypatch):
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}add"
    monkeypatch.setattr(engine.tokenizer, "chat_template", template)
    prompts = [[{"role": "system", "content": "a"}], "", [{"role": "user", "content": "a"}]]
    refused, empty, fine = engine.generate(prompts, 1, DRAWN)
    assert refused[0].refused == "the chat template refuses the prompt: begin with the user"
    assert empty[0].refused == "the prompt is empty" and fine[0].refused is None


def test_rows_that_reach_the_window_do_not_end_the_others(tmp_path):
    """A learned position embedding has no entry beyond the window, which ended rows would reach."""
    tokenizer = build()
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    engine = registry.open_engine(recipe(tmp_path))
    prompts = ["add " * 30, "add a", "add " * 12]
    together = engine.generate(prompts, 2, Sampling(max_tokens=25, seed=3))
    apart = [engine.generate([prompt], 2, Sampling(max_tokens=25, seed=3), [i])[0] for i, prompt in enumerate(prompts)]
    assert together == apart and {completion.tokens for completion in together[0]} <= {1, 2}


def test_progress_counts_everything_once(engine, monkeypatch):
    monkeypatch.setattr(engine, "batch_size", 5)
    progress = []
    made = engine.generate(
        [*PROMPTS, "add " * 300], 3, DRAWN, done=lambda completions, tokens: progress.append((completions, tokens))
    )
    assert sum(completions for completions, _ in progress) == 3 * 10 and len(progress) > 4
    assert sum(tokens for _, tokens in progress) == sum(completion.tokens for completion in flat(made))


def test_out_of_memory_halves_the_batch_and_says_so_once_each(engine, drawn, monkeypatch, caplog):
    monkeypatch.setattr(engine, "batch_size", 16)
    fits, whole = 5, engine.weights.generate

    def generate(input_ids, **kwargs):
        if len(input_ids) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return whole(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(engine.weights, "generate", generate)
    with caplog.at_level(logging.WARNING):
        assert engine.generate(PROMPTS, 4, DRAWN) == drawn
        assert engine.generate(PROMPTS, 4, DRAWN) == drawn
    assert engine.batch_size == 4
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 16 completions at once; continuing with 8",
        "out of memory with 8 completions at once; continuing with 4",
    ]
    fits = 0
    with pytest.raises(RecipeError, match="one completion of 24 tokens"):
        engine.generate(PROMPTS, 4, DRAWN)


def test_a_batch_ends_when_the_engine_is_closed(saved):
    engine = registry.open_engine(recipe(saved))
    steps = []

    def closing(*args):
        steps.append(1)
        if len(steps) == 3:
            engine.close()

    engine.weights.register_forward_pre_hook(closing)
    with pytest.raises(CancelledError):
        engine.generate(PROMPTS, 4, Sampling(max_tokens=100))
    assert len(steps) == 3


def test_texts_are_what_decoding_gives(tmp_path):
    """Bytes that are no text, special tokens and all."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    values = {k: v for k, v in MODEL.items() if k != "model_type"}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **values)
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    engine = registry.open_engine(recipe(tmp_path, tokenizer=None))
    found = engine.generate(["Wie geht's?"], 3, Sampling(max_tokens=50, seed=2))[0]
    ids = tokenizer("Wie geht's?", return_tensors="pt")["input_ids"]
    for i, completion in enumerate(found):
        said = model.generate(
            ids,
            max_new_tokens=50,
            do_sample=False,
            logits_processor=[SeededDraw([derive_seed(2, 0, i)])],
            pad_token_id=0,
        )[0, ids.shape[1] :]
        assert completion.text == tokenizer.decode(said, skip_special_tokens=True)
        assert completion.tokens == len(said)


def test_special_tokens_begin_a_plain_text_and_are_not_repeated_after_a_template():
    tokenizer = byte_tokenizer()
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", begin)]
    )
    assert tokenize_prompt("a", tokenizer, None).ids[0] == begin
    assert begin not in tokenize_prompt([{"role": "user", "content": "a"}], tokenizer, None).ids


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 1.5, -torch.inf, 0.5])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.6),
        Sampling(temperature=1.7, top_p=0.8),
        Sampling(top_k=3),
        Sampling(temperature=0.6, top_p=0.95, top_k=4),
    ],
)
def test_draws_follow_the_distribution(sampling):
    rows = 4000
    scores = build_warpers(sampling)(torch.zeros(rows, 1, dtype=torch.long), LOGITS.repeat(rows, 1))
    tokens = SeededDraw([derive_seed(0, row, 0) for row in range(rows)])(torch.zeros(rows, 1), scores).argmax(1)
    wanted = expected(sampling)
    counts = Counter(tokens.tolist())
    assert counts.keys() == {i for i, share in enumerate(wanted) if share > 0}
    chi2 = sum((counts[i] - rows * share) ** 2 / (rows * share) for i, share in enumerate(wanted) if share > 0)
    assert chi2 < 18.5  # the 0.1% quantile of four degrees of freedom; the seeds are fixed


def expected(sampling: Sampling) -> list[float]:
    """The distribution by its definition: temperature, the likeliest k, then the smallest set of mass top_p."""
    logits = [logit / sampling.temperature for logit in LOGITS.tolist()]
    order = sorted(range(len(logits)), key=lambda i: -logits[i])[: sampling.top_k or None]
    weights = {i: math.exp(logits[i]) for i in order}
    total, kept, mass = sum(weights.values()), {}, 0.0
    for i in order:
        if mass / total < sampling.top_p:
            kept[i] = weights[i]
        mass += weights[i]
    return [kept.get(i, 0.0) / sum(kept.values()) for i in range(len(logits))]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-50, 50), st.just(-math.inf)), min_size=1, max_size=40).filter(
        lambda logits: max(logits) > -math.inf
    ),
    st.floats(0, 1, exclude_max=True),
)
def test_no_impossible_token_is_drawn(logits, uniform):
    scores = torch.tensor([logits])
    token = int(invert_cdf(scores, torch.tensor([uniform], dtype=torch.float64)))
    assert scores[0, token] > -math.inf


def test_the_ends_of_the_unit_interval():
    scores = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]] * 2)
    uniforms = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert invert_cdf(scores, uniforms).tolist() == [1, 2]


def test_random_numbers_are_the_same_for_good():
    draw = SeededDraw([derive_seed(0, 0, 0), derive_seed(0, 0, 1)])
    numbers = [draw._draw_uniforms().tolist() for _ in range(BLOCK + 1)]
    assert numbers[0] == [0.3446959745078553, 0.17987782576535494]
    alone = SeededDraw([derive_seed(0, 0, 1)])
    assert [alone._draw_uniforms().tolist() for _ in range(BLOCK + 1)] == [[second] for _, second in numbers]
    assert len(set(flat(numbers))) == 2 * (BLOCK + 1)
