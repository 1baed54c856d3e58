"""Text to token ids. Prompt and completion are tokenized apart, so that the boundary is where generation starts."""

from collections.abc import Sequence
from itertools import chain

from transformers import PreTrainedTokenizerBase

from workers.config_error import ConfigError
from workers.data.chat_template import Segment
from workers.data.token_sequence import TokenSequence


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each prompt, with the special tokens that the tokenizer puts at the start of a text.

    An end-of-sequence token that the tokenizer would put at the end is left out: the completion follows there.
    """
    rows: list[list[int]] = tokenizer(list(texts), return_attention_mask=False)["input_ids"] if texts else []
    if not _adds_end(tokenizer):
        return rows
    return [row[:-1] if row and row[-1] == tokenizer.eos_token_id else row for row in rows]


def tokenize_completions(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each completion without special tokens, then the end-of-sequence token."""
    return [[*row, tokenizer.eos_token_id] for row in _bare(tokenizer, texts)]


def tokenize_segments(
    tokenizer: PreTrainedTokenizerBase, samples: Sequence[tuple[Segment, ...]]
) -> list[list[list[int]]]:
    """Token ids of every segment of rendered conversations, one list a segment. Templates write special tokens.

    A first segment is tokenized as the beginning of a text. The others are tokenized behind a special token that is
    taken away again, since some tokenizers put a space before a text's first word. Raises ConfigError if the tokenizer
    keeps no token apart from the text behind it.
    """
    firsts = iter(_bare(tokenizer, [sample[0].text for sample in samples]))
    anchor = _anchor(tokenizer)
    rows = iter(_bare(tokenizer, [anchor + segment.text for sample in samples for segment in sample[1:]]))
    return [[next(firsts), *(next(rows)[1:] for _ in sample[1:])] for sample in samples]


def trained_sequence(segments: tuple[Segment, ...], token_ids: Sequence[Sequence[int]]) -> TokenSequence:
    """A sample of its tokenized segments: the prompt ends where the first trained segment begins."""
    first = next(index for index, segment in enumerate(segments) if segment.is_trained)
    later = list(zip(segments[first:], token_ids[first:], strict=True))
    is_trained = tuple(segment.is_trained for segment, ids in later for _ in ids)
    return TokenSequence(
        prompt_token_ids=tuple(chain.from_iterable(token_ids[:first])),
        completion_token_ids=tuple(chain.from_iterable(token_ids[first:])),
        is_trained=None if all(is_trained) else is_trained,
    )


def _bare(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Without special tokens; tokenizers refuse an empty batch."""
    if not texts:
        return []
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return rows


def _anchor(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a token that stays itself, and leaves the white space behind it alone, whatever follows."""
    for token_id, token in tokenizer.added_tokens_decoder.items():
        stays_itself = token.special and not (token.rstrip or token.single_word or token.normalized)
        if stays_itself and _bare(tokenizer, [f"{token.content}a"])[0][0] == token_id:
            return str(token.content)
    raise ConfigError(
        "the tokenizer has no special token that it keeps apart from the text behind it, so a conversation cannot be "
        "cut into turns; register the end-of-sequence token as a special one"
    )


def _adds_end(tokenizer: PreTrainedTokenizerBase) -> bool:
    bare = tokenizer("")["input_ids"]
    return bool(bare) and bare[-1] == tokenizer.eos_token_id
