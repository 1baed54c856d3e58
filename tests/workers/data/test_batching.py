import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.batching import collate, plan_microbatches
from workers.data.token_sequence import TokenSequence

tokens = st.lists(st.integers(1, 99), min_size=1, max_size=9).map(tuple)
sequences = st.builds(TokenSequence, prompt_token_ids=tokens, completion_token_ids=tokens)
PROMPTS = ((1, 2, 3), (1, 2, 4), (5,))
answers = st.builds(TokenSequence, prompt_token_ids=st.sampled_from(PROMPTS), completion_token_ids=tokens)
"""Sequences of which many share their prompt."""
LAYOUTS = ({}, {"packing": True}, {"packing": True, "share_prompts": True})


def test_labels_are_the_next_tokens_of_the_completion() -> None:
    batch = collate(
        [
            TokenSequence(prompt_token_ids=(5, 6), completion_token_ids=(7, 1)),
            TokenSequence(prompt_token_ids=(8,), completion_token_ids=(1,)),
        ],
        pad_token_id=0,
    )
    assert batch.input_ids_BT.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.labels_N.tolist() == [7, 1, 1]
    assert batch.label_places_N.tolist() == [1, 2, 3]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2], [0, 1, 2]]


@given(rows=st.lists(sequences, min_size=1, max_size=6), layout=st.sampled_from(LAYOUTS))
def test_labels_in_order_are_the_completions_one_after_the_other(
    rows: list[TokenSequence], layout: dict[str, bool]
) -> None:
    batch = collate(rows, pad_token_id=0, **layout)
    assert batch.labels_N.tolist() == [token for row in rows for token in row.completion_token_ids]
    before = batch.input_ids_BT.flatten()[batch.label_places_N].tolist()
    assert before == [token for row in rows for token in (row.prompt_token_ids[-1:] + row.completion_token_ids[:-1])]
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
    assert batch.labels_N.tolist() == [7, 1, 9, 1]
    assert batch.label_places_N.tolist() == [1, 2, 3, 5]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert batch.packed_row is not None and batch.packed_row.lengths == (3, 3)
    assert not batch.packed_row.is_shared


def test_neighbours_with_the_same_prompt_share_it() -> None:
    rows = [
        TokenSequence(prompt_token_ids=(5, 6), completion_token_ids=(7, 1)),
        TokenSequence(prompt_token_ids=(5, 6), completion_token_ids=(8, 9, 1)),
        TokenSequence(prompt_token_ids=(5, 6), completion_token_ids=(1,)),
        TokenSequence(prompt_token_ids=(5, 7), completion_token_ids=(1,)),
    ]
    batch = collate(rows, pad_token_id=0, packing=True, share_prompts=True)
    assert batch.input_ids_BT.tolist() == [[5, 6, 7, 8, 9, 5, 7]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 2, 3, 0, 1]]
    assert batch.labels_N.tolist() == [7, 1, 8, 9, 1, 1, 1]
    assert batch.label_places_N.tolist() == [1, 2, 1, 3, 4, 1, 6]
    assert batch.packed_row is not None and batch.packed_row.is_shared
    assert batch.packed_row.places_S.tolist() == [0, 1, 2, 0, 1, 3, 4, 0, 1, 5, 6]


@given(rows=st.lists(answers, min_size=1, max_size=12), share_prompts=st.booleans())
def test_a_packed_row_finds_each_token_among_those_of_the_sequences(
    rows: list[TokenSequence], share_prompts: bool
) -> None:
    batch = collate(rows, pad_token_id=0, packing=True, share_prompts=share_prompts)
    packed_row, ids_T = batch.packed_row, batch.input_ids_BT[0]
    assert packed_row is not None
    inputs = [token for row in rows for token in (row.prompt_token_ids + row.completion_token_ids)[:-1]]
    assert ids_T[packed_row.places_S].tolist() == inputs
    assert torch.equal(ids_T[packed_row.places_S][packed_row.kept_T], ids_T)
    in_blocks = torch.cat([ids_T[places_bl].flatten() for places_bl in packed_row.blocks.places])
    positions = [torch.arange(places.shape[1]).repeat(len(places)) for places in packed_row.blocks.places]
    assert torch.equal(in_blocks[packed_row.blocks.kept_T], ids_T)
    assert torch.equal(torch.cat(positions)[packed_row.blocks.kept_T], batch.position_ids_BT[0])


@settings(max_examples=30)
@given(rows=st.lists(answers, min_size=1, max_size=30), max_tokens=st.integers(1, 60))
def test_micro_batches_with_shared_prompts_hold_every_sequence_once_within_the_budget(
    rows: list[TokenSequence], max_tokens: int
) -> None:
    plan = plan_microbatches(rows, max_tokens, packing=True, share_prompts=True)
    assert sorted(index for part in plan for index in part) == list(range(len(rows)))
    for part in plan:
        batch = collate([rows[index] for index in part], pad_token_id=0, packing=True, share_prompts=True)
        assert batch.input_ids_BT.shape[1] <= max_tokens or len(part) == 1


def test_a_group_stays_together_as_far_as_the_budget_goes() -> None:
    group = [TokenSequence(prompt_token_ids=(1,) * 6, completion_token_ids=(2,) * 4)] * 4
    assert plan_microbatches(group, 18, packing=True, share_prompts=True) == [[0, 1, 2, 3]]
    assert plan_microbatches(group, 12, packing=True, share_prompts=True) == [[2, 3], [0, 1]]


def test_sequences_of_like_length_share_a_micro_batch() -> None:
    rows = [TokenSequence(prompt_token_ids=(1,), completion_token_ids=(2,) * length) for length in (9, 1, 9, 1)]
    assert plan_microbatches(rows, 18) == [[1, 3], [0, 2]]


def test_padding_is_never_an_input_of_a_label() -> None:
    rows = [TokenSequence(prompt_token_ids=(3,), completion_token_ids=(4,) * length) for length in (1, 5)]
    batch = collate(rows, pad_token_id=0)
    assert 0 not in batch.input_ids_BT.flatten()[batch.label_places_N].tolist()
