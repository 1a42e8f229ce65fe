"""A word-level tokenizer for the miniature world: every word of its corpora is one token."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .problems import WORDS

ROLES = ["<system>", "<user>", "<assistant>"]
SPECIAL = ["<pad>", "<eos>", "<unk>", *ROLES]

# `generation` must open and close on a visible character: transformers maps its ends to tokens by character.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ ' ' if not loop.first }}<{{ message.role }}> "
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }} <eos>{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}"
    "{% endfor %}"
    "{{ ' <assistant>' if add_generation_prompt }}"
)


def build() -> PreTrainedTokenizerFast:
    """Return the tokenizer: text splits at white space, a word outside the vocabulary becomes `<unk>`.

    Thinking and answer tags are ordinary words, so they survive `skip_special_tokens`; decoding joins words with
    single spaces. Padding is on the left, and the padding token is not the end token.
    """
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=ROLES,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
