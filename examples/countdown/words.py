"""The task's word-level tokenizer: integers 0..36, operators and marks as one token each, words separated by spaces.

It adds no special tokens by itself: the trainer appends the end token to completions, and prompts start bare.
"""

from pathlib import Path

from task import OPERATORS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from service.contract.gold_answers import COUNTDOWN_INTEGERS

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
VOCABULARY = (PAD, BOS, EOS, UNKNOWN, *COUNTDOWN_INTEGERS, *OPERATORS, "=", ";", "->", ":")
"""Position is token id."""

MAX_POSITIONS = 64
"""Longest sequence of the base model; a prompt with its completion takes 18 tokens."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Splits at whitespace, joins by single spaces, so text of known words comes back as it went in."""
    ids = {word: position for position, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocab=ids, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def write_tokenizer(folder: Path) -> None:
    """Save what ``AutoTokenizer.from_pretrained(folder)`` reads."""
    build_tokenizer().save_pretrained(folder)
