"""Chat templates with the real tokenizers: what is shown to the model, and what it is trained on."""

from __future__ import annotations

import json

import pytest
from conftest import shared
from transformers import AutoTokenizer

from open_r1.prompts import CHAT_TEMPLATES, PROMPTS

TALK = [
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nFour."},
    {"role": "user", "content": "And 3+3?"},
    {"role": "assistant", "content": "Three and three.\n</think>\n\nSix."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi!"},
]
TOKENIZERS = {"chatml": "qwen2.5", "chatml_think": "qwen2.5", "r1": "r1-distill-qwen"}


def tokenizer(name: str):
    return AutoTokenizer.from_pretrained(shared("tokenizers", name))


def trained(tok, template: str, messages: list) -> tuple[str, list[str]]:
    """The rendered text, and the pieces of it that the mask covers."""
    out = tok.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    pieces, piece = [], []
    for token, on in zip([*out["input_ids"], None], [*out["assistant_masks"], 0], strict=True):
        if on:
            piece.append(token)
        elif piece:
            pieces.append(tok.decode(piece))
            piece = []
    return tok.decode(out["input_ids"]), pieces


def test_the_mask_covers_every_assistant_turn_with_its_reasoning():
    end = "<｜end▁of▁sentence｜>"
    text, pieces = trained(tokenizer("r1-distill-qwen"), CHAT_TEMPLATES["r1"].text, TALK)
    assert pieces == [
        f"Two and two.\n</think>\n\nFour.{end}",
        f"Three and three.\n</think>\n\nSix.{end}",
        f"</think>\n\nHi!{end}",
    ]
    assert text == (
        "<｜begin▁of▁sentence｜><｜User｜>2+2?<｜Assistant｜><think>\nTwo and two.\n</think>\n\nFour." + end
        + "<｜User｜>And 3+3?<｜Assistant｜><think>\nThree and three.\n</think>\n\nSix." + end
        + "<｜User｜>Hello<｜Assistant｜><think>\n</think>\n\nHi!" + end
    )  # fmt: skip


def test_chatml_think_covers_the_same():
    _, pieces = trained(tokenizer("qwen2.5"), CHAT_TEMPLATES["chatml_think"].text, TALK)
    assert pieces == [
        "Two and two.\n</think>\n\nFour.<|im_end|>",
        "Three and three.\n</think>\n\nSix.<|im_end|>",
        "</think>\n\nHi!<|im_end|>",
    ]


def test_chatml_keeps_messages_as_they_are():
    text, pieces = trained(tokenizer("qwen2.5"), CHAT_TEMPLATES["chatml"].text, TALK[:2])
    assert pieces == ["<think>\nTwo and two.\n</think>\n\nFour.<|im_end|>"]
    assert text == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n" + pieces[0]


def test_the_released_template_loses_the_reasoning():
    tok = tokenizer("r1-distill-qwen")
    released = shared("templates", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja").read_text()
    assert "Two and two." not in tok.apply_chat_template(TALK, chat_template=released, tokenize=False)
    assert "Two and two." in tok.apply_chat_template(TALK, chat_template=CHAT_TEMPLATES["r1"].text, tokenize=False)


def test_llama_template_renders_as_the_original_does():
    original = shared("templates", "meta-llama-Llama-3.1-8B-Instruct.jinja").read_text()
    tok = tokenizer("r1-distill-qwen")
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "Two.\n</think>\n\nFour."}]
    ours = tok.apply_chat_template(messages, chat_template=CHAT_TEMPLATES["llama3_think"].text, tokenize=False)
    theirs = tok.apply_chat_template(messages, chat_template=original, tokenize=False)
    # The original adds a system message with the date; the turns are the same but for the opening tag.
    turns = theirs[theirs.index("<|start_header_id|>user") :]
    assert ours.replace("<think>\n", "") == tok.bos_token + turns


@pytest.mark.parametrize("name", TOKENIZERS)
def test_training_text_continues_the_generation_prompt(name):
    """What the model is trained to write begins exactly, token for token, where generation will begin."""
    tok = tokenizer(TOKENIZERS[name])
    template = CHAT_TEMPLATES[name]
    for turn in (2, 4, 6):
        prompt = tok.apply_chat_template(
            TALK[: turn - 1], chat_template=template.text, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        out = tok.apply_chat_template(
            TALK[:turn], chat_template=template.text, return_dict=True, return_assistant_tokens_mask=True
        )
        assert out["input_ids"][: len(prompt)] == prompt
        assert out["assistant_masks"][len(prompt)] == 1 and out["assistant_masks"][len(prompt) - 1] == 0
    assert tok.decode(prompt).endswith("<think>\n") == (name != "chatml")


def test_the_end_of_a_turn_is_one_token_and_trained_on():
    for name, tokenizer_name in TOKENIZERS.items():
        tok = tokenizer(tokenizer_name)
        ids = tok(CHAT_TEMPLATES[name].end_of_turn, add_special_tokens=False)["input_ids"]
        assert len(ids) == 1
        out = tok.apply_chat_template(
            TALK[:2], chat_template=CHAT_TEMPLATES[name].text, return_dict=True, return_assistant_tokens_mask=True
        )
        last = max(i for i, on in enumerate(out["assistant_masks"]) if on)
        assert out["input_ids"][last] == ids[0]


def test_r1_zero_prompt_is_table_1():
    text = PROMPTS["r1_zero"].present("What is {1}?")
    assert text.startswith("A conversation between User and Assistant. The user asks a question, and the Assistant")
    assert text.endswith("<answer> answer here </answer>. User: What is {1}?. Assistant:")


def test_tokenizers_give_the_original_ids():
    """46 strings with the ids of the original tokenizers, through the loader that recipes use."""
    from open_r1 import models

    for name, stem in (("qwen2.5", "qwen2"), ("r1-distill-qwen", "deepseek-r1-qwen")):
        texts = shared("tokenizers", f"ggml-vocab-{stem}.gguf.inp").read_text().split("\n__ggml_vocab_test__\n")
        ids = shared("tokenizers", f"ggml-vocab-{stem}.gguf.out").read_text().splitlines()
        tok = models.load_named_tokenizer(str(shared("tokenizers", name)))
        read = [tok(text, add_special_tokens=False)["input_ids"] for text in texts[: len(ids)]]
        assert read == [json.loads(f"[{','.join(line.split())}]") for line in ids]
