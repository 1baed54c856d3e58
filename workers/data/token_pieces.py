"""What each token adds to the text of a sample, for people who look at single tokens."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""How a decoder shows bytes that are not yet a whole character."""


def token_pieces(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[str]:
    """The texts of the tokens, special ones included; put together they are the decoded sequence.

    A token that ends within a character has an empty text, and the character belongs to the token that completes it.
    Decoded in a window that begins with the token before, because a token's text depends on its neighbour: some
    tokenizers drop the space of a first word.
    """
    pieces = [""] * len(token_ids)
    begin, done = 0, 0  # token_ids[:done] have their texts, and decoding begins at `begin`.
    for position in range(len(token_ids)):
        known = _decode(tokenizer, token_ids[begin:done])
        text = _decode(tokenizer, token_ids[begin : position + 1])
        if text.endswith(_INCOMPLETE) and position + 1 < len(token_ids):
            continue
        pieces[position] = text[len(known) :]
        begin, done = done, position + 1
    return pieces


def _decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
