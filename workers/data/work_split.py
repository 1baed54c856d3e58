"""A step's sequences over the trainer's ranks. Every rank computes all shares alike, so nothing has to be sent."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from workers.data.token_sequence import TokenSequence

Plan: TypeAlias = list[list[int]]
"""Indices of the sequences of each micro-batch."""


def split_over_ranks(sequences: Sequence[TokenSequence], num_ranks: int) -> list[list[int]]:
    """Indices of each rank's sequences, rising, so that the ranks have about equally many tokens.

    Longest first, each to the rank with the fewest tokens so far: the most that a rank has is at most 4/3 of what the
    best split would give it (Graham 1969).
    """
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    num_tokens = [0] * num_ranks
    for index in sorted(range(len(sequences)), key=lambda index: -sequences[index].num_tokens):
        rank = min(range(num_ranks), key=lambda rank: (num_tokens[rank], len(shares[rank]), rank))
        shares[rank].append(index)
        num_tokens[rank] += sequences[index].num_tokens
    return [sorted(share) for share in shares]


def plans_of_ranks(
    sequences: Sequence[TokenSequence], num_ranks: int, plan: Callable[[Sequence[TokenSequence]], Plan]
) -> list[Plan]:
    """Every rank's micro-batches, the same number for all, since each pass is a meeting of all ranks.

    `plan` cuts a rank's sequences into micro-batches. A rank with too few cuts its largest in two; one with too few
    sequences for that gets empty ones.
    """
    shares = split_over_ranks(sequences, num_ranks)
    plans = [[[share[i] for i in part] for part in plan([sequences[i] for i in share])] for share in shares]
    most = max(len(own) for own in plans)
    return [_stretched(own, most) for own in plans]


def _stretched(plan: Plan, num_microbatches: int) -> Plan:
    while len(plan) < num_microbatches:
        place = max(range(len(plan)), key=lambda place: len(plan[place]), default=None)
        if place is None or len(plan[place]) < 2:
            plan = [*plan, []]
        else:
            half = len(plan[place]) // 2
            plan = [*plan[:place], plan[place][:half], plan[place][half:], *plan[place + 1 :]]
    return plan
