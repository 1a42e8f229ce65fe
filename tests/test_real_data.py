"""Real questions, real R1 responses, the real Qwen2.5 tokenizer: every row is read, presented, masked and judged."""

from __future__ import annotations

import json

import pytest
from conftest import shared

from open_r1 import grpo, models, sft
from open_r1.config.loading import load_recipe
from open_r1.config.schema import DataConfig, DatasetConfig
from open_r1.data import presenting
from open_r1.rewards import scoring
from open_r1.rewards.registry import RewardConfig

# A toy-size Qwen2 with the real vocabulary, made on the spot.
QWEN2 = {
    "model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32768,
}  # fmt: skip
GSM8K = {"columns": {"prompt": "question", "solution": "answer"}, "extract": {"solution": r"####\s*(.+)"}}
R1 = {"columns": {"prompt": "question", "completion": "deepseek-reasoner (question)"}}


@pytest.fixture
def real(write_recipe):
    def make(task: str, **keys):
        keys |= {"random_init": QWEN2, "tokenizer_name_or_path": str(shared("tokenizers", "qwen2.5"))}
        return load_recipe(write_recipe(task, **keys))

    return make


def test_every_gsm8k_row_is_read_and_its_gold_is_right():
    source = DatasetConfig(str(shared("gsm8k", "train.jsonl")), **GSM8K)
    rows = presenting.load_datasets(
        [source], "grpo", DataConfig(prompt="r1_zero"), seed=0, rewards=[RewardConfig("accuracy")]
    )
    assert len(rows) == 7473
    golds = rows["solution"][:]
    assert golds[:3] == ["72", "10", "5"]
    score = scoring.build_rewards([RewardConfig("accuracy"), RewardConfig("think_format")])
    texts = [f"<think>it is</think>\\boxed{{{gold}}}" for gold in golds]
    assert score[0](prompts=golds, completions=texts, solution=golds) == [1.0] * 7473
    wrong = [f"<think>it is</think>\\boxed{{{gold}1}}" for gold in golds]
    assert score[0](prompts=golds, completions=wrong, solution=golds) == [0.0] * 7473


def test_the_first_gsm8k_prompt_token_by_token(real):
    source = {"path": str(shared("gsm8k", "train.jsonl")), **GSM8K}
    recipe = real("grpo", datasets=[source], prompt="r1_zero")
    tokenizer = models.load_tokenizer(recipe)
    row = presenting.load_datasets(recipe.data.datasets, "grpo", recipe.data, 0, recipe.run.rewards)[0]
    tokens = [tokenizer.decode(i) for i in tokenizer(row["prompt"])["input_ids"]]
    template, question = (
        "A| conversation| between| User| and| Assistant|.| The| user| asks| a| question|,| and| the| Assistant| solves"
        "| it|.| The| assistant| first| thinks| about| the| reasoning| process| in| the| mind| and| then| provides"
        "| the| user| with| the| answer|.| The| reasoning| process| and| answer| are| enclosed| within| <|think|>| </"
        "|think|>| and| <|answer|>| </|answer|>| tags|,| respectively|,| i|.e|.,| <|think|>| reasoning| process| here"
        "| </|think|>| <|answer|>| answer| here| </|answer|>.| User|:",
        "| Natal|ia| sold| clips| to| |4|8| of| her| friends| in| April|,| and| then| she| sold| half| as| many| clips"
        "| in| May|.| How| many| clips| did| Natal|ia| sell| altogether| in| April| and| May|?.| Assistant|:",
    )
    assert tokens == (template + question).split("|")
    assert row["solution"] == "72"


def test_the_first_r1_response_token_by_token(real):
    """What SFT trains on: the reasoning and the answer, from behind `<think>` to the end of the turn, nothing else."""
    from trl import SFTTrainer

    path = str(shared("outputs", "r1_gsm8k.json"))
    recipe = real("sft", datasets=[{"path": path, "rows": 3, **R1}], chat_template="chatml_think", max_length=8192)
    tokenizer = models.load_tokenizer(recipe)
    rows = presenting.load_datasets(recipe.data.datasets, "sft", recipe.data, 0)
    recipe.run_dir.mkdir()
    trainer = SFTTrainer(
        model=models.prepare_weights(recipe, tokenizer),
        args=recipe.args,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    stored = json.loads(shared("outputs", "r1_gsm8k.json").read_text())
    for i in range(3):
        batch = trainer.data_collator([trainer.train_dataset[i]])
        ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        response = stored[i]["deepseek-reasoner (question)"].lstrip("\n")
        shown = f"<|im_start|>user\n{stored[i]['question']}<|im_end|>\n<|im_start|>assistant\n<think>\n"
        prompt = tokenizer(shown)["input_ids"]
        # Up to the opened reasoning nothing is trained on; then every token is, the end of the turn included.
        assert ids[: len(prompt)] == prompt and set(labels[: len(prompt)]) == {-100}
        trained = [label for label in labels if label != -100]
        assert tokenizer.decode(trained) == f"{response}<|im_end|>"
        assert "</think>" in tokenizer.decode(trained) and labels[len(prompt) : len(prompt) + len(trained)] == trained
    first = [tokenizer.decode(i) for i in trainer.train_dataset[0]["input_ids"]]
    assert first[:6] == ["<|im_start|>", "user", "\n", "James", " decides", " to"]
    assert first[first.index("<|im_end|>") :][:12] == [
        "<|im_end|>", "\n", "<|im_start|>", "assistant", "\n", "<th", "ink", ">\n", "Okay", ",", " let", "'s",
    ]  # fmt: skip


def test_all_r1_responses_are_masked_from_the_opened_reasoning_on(real):
    path = str(shared("outputs", "r1_gsm8k.json"))
    recipe = real("sft", datasets=[{"path": path, **R1}], chat_template="chatml_think")
    tokenizer = models.load_tokenizer(recipe)
    rows = presenting.load_datasets(recipe.data.datasets, "sft", recipe.data, 0)
    assert len(rows) == 582
    for row in rows:
        messages = row["prompt"] + row["completion"]
        out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        spoken = [token for token, on in zip(out["input_ids"], out["assistant_masks"], strict=True) if on]
        text = row["completion"][0]["content"].lstrip("\n")
        expected = text if "</think>" in text else f"</think>\n\n{row['completion'][0]['content']}"
        assert tokenizer.decode(spoken) == f"{expected}<|im_end|>"


def test_grpo_runs_on_gsm8k_and_sft_on_r1(real):
    source = {"path": str(shared("gsm8k", "train.jsonl")), "rows": 64, **GSM8K}
    keys = {"prompt": "r1_zero", "max_completion_length": 8, "per_device_train_batch_size": 4, "max_steps": 1}
    done = grpo.main(real("grpo", datasets=[source], **keys))
    assert "loss" in (done.dir / "metrics.jsonl").read_text()
    source = {"path": str(shared("outputs", "r1_gsm8k.json")), "rows": 16, **R1}
    keys = {"chat_template": "chatml_think", "max_length": 256, "per_device_train_batch_size": 1, "overwrite": True}
    done = sft.main(real("sft", datasets=[source], max_steps=1, **keys))
    assert "loss" in (done.dir / "metrics.jsonl").read_text()


def test_real_preferences_are_read():
    for language in ("en", "zh"):
        source = DatasetConfig(
            str(shared("preference", f"dpo_{language}_demo.json")), columns={"prompt": "conversations"}
        )
        rows = presenting.load_datasets([source], "dpo", DataConfig(), seed=0)
        assert len(rows) == 300 and rows[0]["chosen"][0]["role"] == "assistant"
        assert rows[0]["prompt"][-1]["role"] == "user"
