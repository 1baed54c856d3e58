import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.batching import collate, plan_microbatches
from workers.data.token_sequence import TokenSequence
from workers.objectives.base import IGNORED

tokens = st.lists(st.integers(1, 99), min_size=1, max_size=9).map(tuple)
sequences = st.builds(TokenSequence, prompt_token_ids=tokens, completion_token_ids=tokens)


def test_labels_are_the_next_tokens_of_the_completion() -> None:
    batch = collate(
        [
            TokenSequence(prompt_token_ids=(5, 6), completion_token_ids=(7, 1)),
            TokenSequence(prompt_token_ids=(8,), completion_token_ids=(1,)),
        ],
        pad_token_id=0,
    )
    assert batch.input_ids_BT.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.labels_BT.tolist() == [[IGNORED, 7, 1], [1, IGNORED, IGNORED]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2], [0, 1, 2]]


@given(rows=st.lists(sequences, min_size=1, max_size=6))
def test_labels_in_order_are_the_completions_one_after_the_other(rows: list[TokenSequence]) -> None:
    batch = collate(rows, pad_token_id=0)
    labels = batch.labels_BT[batch.labels_BT != IGNORED].tolist()
    assert labels == [token for row in rows for token in row.completion_token_ids]
    assert batch.input_ids_BT.dtype == torch.int64


@settings(max_examples=30)
@given(rows=st.lists(sequences, min_size=1, max_size=30), max_tokens=st.integers(1, 60))
def test_micro_batches_hold_every_sequence_once_within_the_budget(rows: list[TokenSequence], max_tokens: int) -> None:
    plan = plan_microbatches(rows, max_tokens)
    assert sorted(index for part in plan for index in part) == list(range(len(rows)))
    for part in plan:
        padded = len(part) * max(rows[index].num_tokens - 1 for index in part)
        assert padded <= max_tokens or len(part) == 1


@settings(max_examples=30)
@given(rows=st.lists(sequences, min_size=1, max_size=30), max_tokens=st.integers(1, 60))
def test_packed_micro_batches_hold_every_sequence_once_and_count_no_padding(
    rows: list[TokenSequence], max_tokens: int
) -> None:
    plan = plan_microbatches(rows, max_tokens, packing=True)
    assert sorted(index for part in plan for index in part) == list(range(len(rows)))
    sizes = [sum(rows[index].num_tokens - 1 for index in part) for part in plan]
    assert all(size <= max_tokens or len(part) == 1 for size, part in zip(sizes, plan, strict=True))
    # Two parts that are both at most half full would have become one.
    assert sum(2 * size <= max_tokens for size in sizes) <= 1


def test_a_packed_batch_is_one_row_whose_positions_start_again() -> None:
    rows = [
        TokenSequence(prompt_token_ids=(5, 6), completion_token_ids=(7, 1)),
        TokenSequence(prompt_token_ids=(8,), completion_token_ids=(9, 8, 1), is_trained=(True, False, True)),
    ]
    batch = collate(rows, pad_token_id=0, packing=True)
    assert batch.input_ids_BT.tolist() == [[5, 6, 7, 8, 9, 8]]
    assert batch.labels_BT.tolist() == [[IGNORED, 7, 1, 9, IGNORED, 1]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert batch.packed_lengths == (3, 3)


def test_sequences_of_like_length_share_a_micro_batch() -> None:
    rows = [TokenSequence(prompt_token_ids=(1,), completion_token_ids=(2,) * length) for length in (9, 1, 9, 1)]
    assert plan_microbatches(rows, 18) == [[1, 3], [0, 2]]


def test_padding_is_never_an_input_of_a_label() -> None:
    rows = [TokenSequence(prompt_token_ids=(3,), completion_token_ids=(4,) * length) for length in (1, 5)]
    batch = collate(rows, pad_token_id=0)
    assert not np.any((batch.input_ids_BT == 0).numpy() & (batch.labels_BT != IGNORED).numpy())
