"""Text to token ids. Prompt and completion are tokenized apart, so that the boundary is where generation starts."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each prompt, with the special tokens that the tokenizer puts at the start of a text.

    An end-of-sequence token that the tokenizer would put at the end is left out: the completion follows there.
    """
    rows: list[list[int]] = tokenizer(list(texts), return_attention_mask=False)["input_ids"]
    if not _adds_end(tokenizer):
        return rows
    return [row[:-1] if row and row[-1] == tokenizer.eos_token_id else row for row in rows]


def tokenize_completions(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each completion without special tokens, then the end-of-sequence token."""
    rows = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [[*row, tokenizer.eos_token_id] for row in rows]


def _adds_end(tokenizer: PreTrainedTokenizerBase) -> bool:
    bare = tokenizer("")["input_ids"]
    return bool(bare) and bare[-1] == tokenizer.eos_token_id
