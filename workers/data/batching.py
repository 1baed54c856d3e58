"""Micro-batches within a budget of padded tokens.

A sequence of L tokens feeds L - 1 inputs; position t has token t + 1 as its label if that belongs to the completion:

    tokens   p p p c c e
    inputs   p p p c c          (L - 1, padded on the right)
    labels   - - c c e          (- is ignored)
"""

from collections.abc import Sequence

import numpy as np
import torch

from workers.data.token_sequence import TokenSequence
from workers.objectives.base import IGNORED, TokenBatch


def plan_microbatches(sequences: Sequence[TokenSequence], max_tokens: int) -> list[list[int]]:
    """Indices of the sequences of each micro-batch, so that rows x longest input stays within `max_tokens`.

    Sequences of like length go together, which keeps padding small; the order depends on the lengths alone. A sequence
    that is longer than the budget by itself gets a micro-batch of its own.
    """
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].num_tokens)
    plan: list[list[int]] = []
    for index in order:
        # In rising order, the newest sequence is the longest.
        if plan and (len(plan[-1]) + 1) * (sequences[index].num_tokens - 1) <= max_tokens:
            plan[-1].append(index)
        else:
            plan.append([index])
    return plan


def collate(sequences: Sequence[TokenSequence], pad_token_id: int) -> TokenBatch:
    """One padded batch, [B, T]. Its N label tokens are the sequences' trained tokens, one sequence after the other."""
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
    return TokenBatch(
        input_ids_BT=torch.from_numpy(input_ids_BT),
        labels_BT=torch.from_numpy(labels_BT),
        position_ids_BT=torch.from_numpy(np.broadcast_to(position_T, real_BT.shape).copy()),
    )
