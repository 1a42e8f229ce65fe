"""The miniature world: a tokenizer that knows every word, and problems whose careful solutions are right."""

import random
import re

import pytest

from open_r1.tiny import problems
from open_r1.tiny.tokenizer import build

ROWS = 2000


@pytest.fixture(scope="module")
def tokenizer():
    return build()


@pytest.fixture(scope="module")
def corpus():
    return problems.pretraining(seed=0, rows=ROWS)


def digits_of(question: str) -> list[int]:
    return [int(digit) for digit in re.findall(r"\d", question)]


def contents(rows, column: str) -> list[str]:
    return [messages[0]["content"] for messages in rows[column]]


def test_every_text_survives_the_tokenizer(tokenizer, corpus):
    tests = problems.problems(seed=0, rows=200, split="test")
    texts = {*contents(corpus, "prompt"), *contents(corpus, "completion"), *contents(tests, "prompt")}
    assert len(texts) > ROWS / 2
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert len(ids) == len(text.split())


def test_vocabulary(tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"
    assert tokenizer.decode(tokenizer("add nonsense <think>")["input_ids"]) == "add <unk> <think>"
    assert tokenizer.decode(tokenizer("4 <eos> <pad>")["input_ids"], skip_special_tokens=True) == "4"


def test_the_tokenizer_survives_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "<think> a 7 </think> 7"}]
    assert loaded.apply_chat_template(messages) == tokenizer.apply_chat_template(messages)
    assert loaded.get_vocab() == tokenizer.get_vocab()


def test_chat_template_marks_what_the_assistant_says(tokenizer):
    messages = [
        {"role": "system", "content": "add"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi nice to meet you"},
        {"role": "user", "content": "add a 7 b 6 last digit ?"},
        {"role": "assistant", "content": problems.solve([7, 6], "en")},
    ]
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    said = [i for i, marked in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if marked]
    assert tokenizer.decode(said) == (
        "hi nice to meet you <eos> <think> a 7 then b 6 makes 3 </think> <answer> 3 </answer> <eos>"
    )


def test_a_prompt_is_the_beginning_of_its_conversation(tokenizer, corpus):
    for row in corpus.select(range(ROWS - 50, ROWS)):
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
        assert whole[: len(prompt)] == prompt
        assert tokenizer.decode(prompt) == f"<user> {row['prompt'][0]['content']} <assistant>"
        assert tokenizer.decode(whole[len(prompt) :]) == row["completion"][0]["content"] + " <eos>"


def test_no_test_sum_is_ever_trained_on():
    trained = {
        tuple(digits_of(text)) for seed in (0, 1) for text in contents(problems.pretraining(seed, 4000), "prompt")
    }
    trained |= {tuple(digits_of(text)) for text in contents(problems.problems(2, 4000, "train"), "prompt")}
    tests = [problems.problems(seed, 2000, "test") for seed in (0, 1, 2)]
    tested = {tuple(digits_of(text)) for rows in tests for text in contents(rows, "prompt")}
    assert len(tested) > 1000
    assert not trained & tested


@pytest.mark.parametrize("split", ["train", "test"])
def test_solutions_are_right(split):
    rows = problems.problems(seed=3, rows=300, split=split)
    for row in rows:
        digits = digits_of(row["prompt"][0]["content"])
        assert row["solution"] == str(sum(digits) % 10)
        assert row["steps"] == len(digits)
        assert problems.split_of(digits) == split
        assert row["prompt"][0]["content"] == problems.question(digits, row["language"])
    assert set(rows["language"]) == {"en", "zh"}
    assert set(rows["steps"]) == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("language, then, makes", [("en", "then", "makes"), ("zh", "然后", "得")])
def test_careful_solutions(language, then, makes):
    rng = random.Random(0)
    for _ in range(200):
        digits = [rng.randrange(10) for _ in range(rng.randint(2, 6))]
        total, reasoning = digits[0], f"a {digits[0]}"
        for key, digit in zip("bcdef"[: len(digits) - 1], digits[1:], strict=True):
            total = (total + digit) % 10
            reasoning += f" {then} {key} {digit} {makes} {total}"
        assert problems.solve(digits, language) == f"<think> {reasoning} </think> <answer> {total} </answer>"


def test_too_many_digits_are_refused():
    with pytest.raises(ValueError):
        problems.question([1] * 7, "en")


def test_the_curriculum_is_clean_first_and_messy_last(corpus):
    def right(rows) -> float:
        pairs = zip(contents(rows, "prompt"), contents(rows, "completion"), strict=True)
        sums = [(digits_of(prompt), completion) for prompt, completion in pairs if digits_of(prompt)]
        return sum(completion.endswith(f"<answer> {sum(d) % 10} </answer>") for d, completion in sums) / len(sums)

    assert right(corpus.select(range(ROWS // 2))) == 1.0
    assert 0.1 < right(corpus.select(range(ROWS * 9 // 10, ROWS))) < 0.4
    greetings = sum("<think>" not in text and not re.search(r"\d", text) for text in contents(corpus, "completion"))
    assert 0.02 < greetings / ROWS < 0.06


def test_everything_follows_from_the_seed():
    assert problems.pretraining(5, 300).to_list() == problems.pretraining(5, 300).to_list()
    assert problems.pretraining(5, 300).to_list() != problems.pretraining(6, 300).to_list()
    assert problems.problems(5, 300, "test").to_list() == problems.problems(5, 300, "test").to_list()
    # Pinned: a sum must not change splits between versions, nor with PYTHONHASHSEED.
    tested = [10 * a + b for a in range(10) for b in range(10) if problems.split_of([a, b]) == "test"]
    assert tested == [5, 11, 26, 32, 39, 47, 53, 58, 64, 70, 85, 91]
