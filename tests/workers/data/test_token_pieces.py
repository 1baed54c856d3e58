from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.workers.tiny_model import make_tokenizer
from workers.data.token_pieces import token_pieces


def make_byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte is a token, as in byte-level vocabularies where a character is rare."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=257, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    core.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


def make_metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Words begin with a space that the decoder drops at the start of a text."""
    core = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("▁b", -1.0), ("c", -1.0)], 0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<unk>")


BYTES = make_byte_tokenizer()


@pytest.mark.parametrize(
    ("tokenizer", "token_ids", "pieces"),
    [
        (make_tokenizer(), [3, 4, 1, 5], ["w0", " w1", " <eos>", " w2"]),
        (make_metaspace_tokenizer(), [1, 2, 3, 1], ["a", " b", "c", " a"]),
        (make_tokenizer(), [], []),
    ],
)
def test_each_token_has_its_text(
    tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int], pieces: list[str]
) -> None:
    assert token_pieces(tokenizer, token_ids) == pieces


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    token_ids = [*BYTES("é漢")["input_ids"], BYTES.eos_token_id]
    assert token_pieces(BYTES, token_ids) == ["", "é", "", "", "漢", "<eos>"]


def test_a_sample_may_end_within_a_character() -> None:
    assert token_pieces(BYTES, BYTES("a漢")["input_ids"][:2]) == ["a", "\N{REPLACEMENT CHARACTER}"]


@given(st.text(max_size=20), st.integers(0, 3))
def test_pieces_put_together_are_the_decoded_sample(text: str, num_cut: int) -> None:
    token_ids = BYTES(text)["input_ids"]
    token_ids = token_ids[: len(token_ids) - num_cut]
    assert "".join(token_pieces(BYTES, token_ids)) == BYTES.decode(token_ids, clean_up_tokenization_spaces=False)
