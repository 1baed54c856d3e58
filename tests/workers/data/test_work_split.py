from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from workers.data.batching import plan_microbatches
from workers.data.token_sequence import TokenSequence
from workers.data.work_split import plans_of_ranks, split_over_ranks

lengths = st.lists(st.integers(2, 200), min_size=1, max_size=24)
ranks = st.integers(1, 5)


def sequences_of(lengths: list[int]) -> list[TokenSequence]:
    return [TokenSequence(prompt_token_ids=(1,), completion_token_ids=(2,) * (length - 1)) for length in lengths]


@given(lengths=lengths, num_ranks=ranks)
def test_every_sequence_goes_to_one_rank_and_no_rank_is_far_behind(lengths: list[int], num_ranks: int) -> None:
    shares = split_over_ranks(sequences_of(lengths), num_ranks)
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    num_tokens = [sum(lengths[index] for index in share) for share in shares]
    assert max(num_tokens) - min(num_tokens) <= max(lengths)


@given(lengths=lengths, num_ranks=ranks, max_tokens=st.integers(1, 400), packing=st.booleans())
def test_all_ranks_have_as_many_micro_batches_within_the_budget(
    lengths: list[int], num_ranks: int, max_tokens: int, packing: bool
) -> None:
    plan = partial(plan_microbatches, max_tokens=max_tokens, packing=packing)
    plans = plans_of_ranks(sequences_of(lengths), num_ranks, plan)
    assert len({len(own) for own in plans}) == 1
    assert sorted(index for own in plans for part in own for index in part) == list(range(len(lengths)))
    for part in (part for own in plans for part in own if len(part) > 1):
        inputs = [lengths[index] - 1 for index in part]
        assert (sum(inputs) if packing else len(inputs) * max(inputs)) <= max_tokens


def test_a_rank_with_fewer_micro_batches_cuts_its_own_before_it_idles() -> None:
    # The long one fills a rank's budget; the short ones of the other rank would fit into a single micro-batch.
    plans = plans_of_ranks(sequences_of([9, 9, 4, 4, 4, 4]), 2, partial(plan_microbatches, max_tokens=8))
    assert all(part for own in plans for part in own)


def test_a_rank_without_sequences_has_empty_micro_batches() -> None:
    assert plans_of_ranks(sequences_of([5]), 2, partial(plan_microbatches, max_tokens=8)) == [[[0]], [[]]]
