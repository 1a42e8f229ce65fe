"""How a question becomes a prompt, and how a conversation becomes text: every prompt and chat template by name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

Messages = list[dict[str, str]]

# R1, Table 1 (arXiv 2501.12948v1), with the question in place of "prompt".
R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: {question}. Assistant:"
)


@dataclass(frozen=True)
class Prompt:
    """Presents a question: as plain text (`plain`), or as a user's message of a conversation.

    Args:
        text: the prompt with `{question}` where the question goes.
        plain: True for base models, which get text and no chat template.
    """

    text: str
    plain: bool = False

    def present(self, question: str, system_prompt: str | None = None) -> str | Messages:
        text = self.text.replace("{question}", question)
        if self.plain:
            return text
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        return [*system, {"role": "user", "content": text}]


PROMPTS: dict[str, Prompt] = {
    "chat": Prompt("{question}"),
    "plain": Prompt("{question}", plain=True),
    "r1_zero": Prompt(R1_ZERO, plain=True),
    # The DeepSeek-R1 README's advice for mathematics: no system prompt, and this sentence after the question.
    "boxed": Prompt("{question}\nPlease reason step by step, and put your final answer within \\boxed{}."),
    # simple-evals' (MIT), which R1's evaluation of GPQA used (arXiv 2501.12948v1, 3).
    "multiple_choice": Prompt(
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
        "\n\n{question}"
    ),
    # LiveCodeBench's (MIT) for DeepSeek-R1; what comes after the question hangs on its kind.
    "livecodebench": Prompt(
        "You will be given a question (problem specification) and will generate a correct Python program that matches "
        "the specification and passes all tests.\n\nQuestion: {question}"
    ),
    # DeepSeek-Coder's (MIT) for HumanEval.
    "complete_python": Prompt(
        "Please continue to complete the function. You are not allowed to modify the given code and do the completion "
        "only. Please return all completed function in a codeblock. Here is the given code to do completion:\n"
        "```python\n{question}\n```"
    ),
    # MBPP's (arXiv 2108.07732); the sentence about the block is ours, as a chat model's answer has words around it.
    "write_python": Prompt(
        "You are an expert Python programmer, and here is your task: {question}\n\n"
        "Put your program in a block between ```python and ```."
    ),
    # For instruct models: R1's non-reasoning data were made "by prompting" for a chain of thought before the answer
    # (arXiv 2501.12948v1, 2.3.3). The paper does not print its prompt; this one is ours.
    "think_first": Prompt(
        "{question}\n\nBefore you answer, think about what is asked and how to answer it well. Write these thoughts "
        "first, in the language of the request, between <think> and </think>. Then write the answer, which must be "
        "complete without the thoughts and must not mention them."
    ),
}


def hash_prompt(prompt: str | Messages) -> str:
    """16 hex digits that name a prompt, as its source gave it, in every dataset that comes from it."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False, sort_keys=True)
    # A model or a scrape may have left half of a surrogate pair.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class ChatTemplate:
    """A template file of `templates/`.

    Args:
        file: its name.
        end_of_turn: token that ends an assistant's message; it becomes the tokenizer's end token.
    """

    file: str
    end_of_turn: str

    @property
    def text(self) -> str:
        return (Path(__file__).parent / "templates" / self.file).read_text(encoding="utf-8")


# All of them keep the reasoning of every assistant turn, and mark the assistant's tokens for the loss. The released
# R1-distill templates cut everything before `</think>`, which removes the reasoning from SFT data without a word.
CHAT_TEMPLATES: dict[str, ChatTemplate] = {
    "chatml": ChatTemplate("chatml.jinja", "<|im_end|>"),
    "chatml_think": ChatTemplate("chatml_think.jinja", "<|im_end|>"),
    "r1": ChatTemplate("r1.jinja", "<｜end▁of▁sentence｜>"),
    "llama3_think": ChatTemplate("llama3_think.jinja", "<|eot_id|>"),
}


def read_last_text(prompt: str | Messages | None) -> str:
    """What a prompt asks: its text, or its last message's."""
    if not prompt:
        return ""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"] or ""
