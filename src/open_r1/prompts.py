"""How a question becomes a prompt, and how a conversation becomes text: every prompt and chat template by name."""

from __future__ import annotations

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
}


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
