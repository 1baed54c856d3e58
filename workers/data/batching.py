"""Micro-batches within a budget of tokens, padded or packed.

A sequence of L tokens feeds L - 1 inputs; position t has token t + 1 as its label if that belongs to the completion:

    tokens      p p p c c e
    inputs      p p p c c          (L - 1)
    labels      - - c c e          (- is none)

A padded batch has a row for each sequence, filled up on the right. A packed one has a single row with the sequences end
to end, whose positions start again with each. Of sequences with the same prompt, as the completions of a group, the
first one may bring it for all: nothing before a completion depends on it, so the prompt is computed once.

    inputs      p p p c c | p c c c | p p c        with shared prompts    p p p c c | d d d d | e
    positions   0 1 2 3 4 | 0 1 2 3 | 0 1 2                               0 1 2 3 4 | 3 4 5 6 | 3

Dims: B rows, T positions, N label tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from workers.data.packed_row import PackedRow, Places
from workers.data.token_sequence import TokenSequence


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Sequences padded on the right, or packed into one row end to end.

    Causal attention keeps every real token from seeing the padding.
    """

    input_ids_BT: Tensor
    """int64. The last token of a sequence is a label only, never an input."""
    position_ids_BT: Tensor
    """int64, from 0 in each sequence."""
    labels_N: Tensor
    """int64: the trained tokens, one sequence after the other."""
    label_places_N: Tensor
    """int64: behind which input each of them stands, counted through [B, T] row by row. Sequences that share a prompt
    have their first labels behind the same input."""
    packed_row: PackedRow | None = None
    """How the sequences lie in a packed row; None: the batch is padded."""

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on another device."""
        return TokenBatch(
            input_ids_BT=self.input_ids_BT.to(device, non_blocking=True),
            position_ids_BT=self.position_ids_BT.to(device, non_blocking=True),
            labels_N=self.labels_N.to(device, non_blocking=True),
            label_places_N=self.label_places_N.to(device, non_blocking=True),
            packed_row=None if self.packed_row is None else self.packed_row.to(device),
        )


def plan_microbatches(
    sequences: Sequence[TokenSequence], max_tokens: int, *, packing: bool = False, share_prompts: bool = False
) -> list[list[int]]:
    """Indices of the sequences of each micro-batch, so that its inputs, padding included, stay within `max_tokens`.

    Padded, sequences of like length go together, which keeps padding small. Packed, each goes, longest first, where
    there is room; with shared prompts, all of a prompt together, as far as the budget lets them. Either order depends
    on the lengths alone. A sequence that is longer than the budget by itself gets a micro-batch of its own.
    """
    lengths = [sequence.num_tokens - 1 for sequence in sequences]
    if not packing:
        return _cut(sorted(range(len(sequences)), key=lengths.__getitem__), lengths, max_tokens)
    families = _families(sequences, max_tokens) if share_prompts else [[index] for index in range(len(sequences))]
    sizes = [_num_inputs([sequences[index] for index in family]) for family in families]
    # Of equals, the last one first.
    order = reversed(sorted(range(len(families)), key=sizes.__getitem__))
    plan = _fill(order, sizes, max_tokens)
    return [list(chain.from_iterable(families[place] for place in part)) for part in plan]


def collate(
    sequences: Sequence[TokenSequence], pad_token_id: int, *, packing: bool = False, share_prompts: bool = False
) -> TokenBatch:
    """One batch, [B, T], padded, or packed into one row; then neighbours with equal prompts may share them.

    Its N label tokens are the sequences' trained tokens, one sequence after the other, in all forms.
    """
    labels_N = np.fromiter(chain.from_iterable(sequence.label_token_ids for sequence in sequences), dtype=np.int64)
    input_ids_BT, position_ids_BT, label_places_N, packed_row = (
        _packed(sequences, share_prompts) if packing else _padded(sequences, pad_token_id)
    )
    return TokenBatch(
        input_ids_BT=torch.from_numpy(input_ids_BT),
        position_ids_BT=torch.from_numpy(position_ids_BT),
        labels_N=torch.from_numpy(labels_N),
        label_places_N=torch.from_numpy(label_places_N),
        packed_row=packed_row,
    )


_Layout: TypeAlias = tuple[Places, Places, Places, PackedRow | None]
"""Input ids and positions, [B, T], places of the labels in the two, read row by row, [N], and what holds a row."""


def _padded(sequences: Sequence[TokenSequence], pad_token_id: int) -> _Layout:
    num_inputs_B = np.array([sequence.num_tokens - 1 for sequence in sequences])
    num_prompt_B = np.array([len(sequence.prompt_token_ids) for sequence in sequences])
    position_T = np.arange(int(num_inputs_B.max()))
    real_BT = position_T < num_inputs_B[:, None]
    labelled_BT = real_BT & (position_T >= num_prompt_B[:, None] - 1)
    for row, sequence in enumerate(sequences):
        if sequence.is_trained is not None:
            labelled_BT[row, num_prompt_B[row] - 1 : num_inputs_B[row]] = sequence.is_trained
    input_ids_BT = np.full(real_BT.shape, pad_token_id, dtype=np.int64)
    input_ids_BT[real_BT] = [
        token for item in sequences for token in (item.prompt_token_ids + item.completion_token_ids)[:-1]
    ]
    return input_ids_BT, np.broadcast_to(position_T, real_BT.shape).copy(), np.flatnonzero(labelled_BT), None


def _packed(sequences: Sequence[TokenSequence], share_prompts: bool) -> _Layout:
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    label_places: list[int] = []
    known_prompt: tuple[int, ...] | None = None
    prompt_places = range(0)
    for sequence in sequences:
        prompt, completion = sequence.prompt_token_ids, sequence.completion_token_ids
        if prompt != known_prompt or not share_prompts:
            known_prompt, prompt_places = prompt, range(len(ids), len(ids) + len(prompt))
            ids += prompt
            positions += range(len(prompt))
        own_places = range(len(ids), len(ids) + len(completion) - 1)
        ids += completion[:-1]
        positions += range(len(prompt), sequence.num_tokens - 1)
        places += chain(prompt_places, own_places)
        predicting = (prompt_places[-1], *own_places)
        label_places += predicting if sequence.is_trained is None else compress(predicting, sequence.is_trained)
    packed_row = PackedRow.of(places, [sequence.num_tokens - 1 for sequence in sequences], len(ids))
    return np.array([ids]), np.array([positions]), np.array(label_places, dtype=np.int64), packed_row


def _families(sequences: Sequence[TokenSequence], max_tokens: int) -> list[list[int]]:
    """Sequences with the same prompt, in their order, cut where the budget ends."""
    by_prompt: dict[tuple[int, ...], list[list[int]]] = {}
    rooms: dict[tuple[int, ...], int] = {}
    for index, sequence in enumerate(sequences):
        prompt, num_own = sequence.prompt_token_ids, len(sequence.completion_token_ids) - 1
        parts = by_prompt.setdefault(prompt, [])
        if not parts or rooms[prompt] < num_own:
            parts.append([])
            rooms[prompt] = max_tokens - len(prompt)
        parts[-1].append(index)
        rooms[prompt] -= num_own
    return list(chain.from_iterable(by_prompt.values()))


def _num_inputs(family: Sequence[TokenSequence]) -> int:
    """Of sequences that share their prompt."""
    return len(family[0].prompt_token_ids) + sum(len(sequence.completion_token_ids) - 1 for sequence in family)


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
