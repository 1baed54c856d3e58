"""Micro-batches within a budget of tokens, padded or packed.

A sequence of L tokens feeds L - 1 inputs; position t has token t + 1 as its label if that belongs to the completion:

    tokens      p p p c c e
    inputs      p p p c c          (L - 1)
    labels      - - c c e          (- is ignored)

A padded batch has a row for each sequence, filled up on the right. A packed one has a single row with the sequences end
to end, whose positions start again with each:

    inputs      p p p c c | p c c c | p p c
    positions   0 1 2 3 4 | 0 1 2 3 | 0 1 2
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from workers.data.token_sequence import TokenSequence
from workers.objectives.base import IGNORED, TokenBatch


def plan_microbatches(sequences: Sequence[TokenSequence], max_tokens: int, *, packing: bool = False) -> list[list[int]]:
    """Indices of the sequences of each micro-batch, so that its inputs, padding included, stay within `max_tokens`.

    Padded, sequences of like length go together, which keeps padding small. Packed, each goes, longest first, where
    there is room. Either order depends on the lengths alone. A sequence that is longer than the budget by itself gets a
    micro-batch of its own.
    """
    lengths = [sequence.num_tokens - 1 for sequence in sequences]
    order = sorted(range(len(sequences)), key=lengths.__getitem__)
    return _fill(reversed(order), lengths, max_tokens) if packing else _cut(order, lengths, max_tokens)


def collate(sequences: Sequence[TokenSequence], pad_token_id: int, *, packing: bool = False) -> TokenBatch:
    """One batch, [B, T], padded, or packed into one row.

    Its N label tokens are the sequences' trained tokens, one sequence after the other, in both forms.
    """
    num_inputs_B = np.array([sequence.num_tokens - 1 for sequence in sequences])
    num_prompt_B = np.array([len(sequence.prompt_token_ids) for sequence in sequences])
    position_T = np.arange(int(num_inputs_B.max()))
    real_BT = position_T < num_inputs_B[:, None]
    labelled_BT = real_BT & (position_T >= num_prompt_B[:, None] - 1)
    for row, sequence in enumerate(sequences):
        if sequence.is_trained is not None:
            labelled_BT[row, num_prompt_B[row] - 1 : num_inputs_B[row]] = sequence.is_trained
    input_ids_BT = np.full(real_BT.shape, pad_token_id, dtype=np.int64)
    labels_BT = np.full(real_BT.shape, IGNORED, dtype=np.int64)
    input_ids_BT[real_BT] = [
        token for item in sequences for token in (item.prompt_token_ids + item.completion_token_ids)[:-1]
    ]
    labels_BT[labelled_BT] = [token for item in sequences for token in item.label_token_ids]
    position_ids_BT = np.broadcast_to(position_T, real_BT.shape).copy()
    if packing:
        input_ids_BT, labels_BT, position_ids_BT = (
            rows[real_BT][None] for rows in (input_ids_BT, labels_BT, position_ids_BT)
        )
    return TokenBatch(
        input_ids_BT=torch.from_numpy(input_ids_BT),
        labels_BT=torch.from_numpy(labels_BT),
        position_ids_BT=torch.from_numpy(position_ids_BT),
        packed_lengths=tuple(num_inputs_B.tolist()) if packing else None,
    )


def _cut(order: Iterable[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut rising lengths into pieces of rows x longest."""
    plan: list[list[int]] = []
    for index in order:
        # In rising order, the newest sequence is the longest.
        if plan and (len(plan[-1]) + 1) * lengths[index] <= max_tokens:
            plan[-1].append(index)
        else:
            plan.append([index])
    return plan


def _fill(order: Iterable[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Each sequence into the first piece with room for it ("first fit decreasing")."""
    plan: list[list[int]] = []
    rooms: list[int] = []
    for index in order:
        place = next((place for place, room in enumerate(rooms) if room >= lengths[index]), None)
        if place is None:
            plan.append([index])
            rooms.append(max_tokens - lengths[index])
        else:
            plan[place].append(index)
            rooms[place] -= lengths[index]
    return plan
