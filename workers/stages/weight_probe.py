"""The probe of a weight sync: a few token sequences, scored by trainer and engines, that must come out the same.

A weight that did not arrive, or arrived otherwise, moves log-probs; a score of the same tokens on both sides shows it,
whatever the way between them was. How far the two may differ without any fault depends on the precision alone.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.contract.spec import ExperimentSpec
from workers.seeds import derive_seed
from workers.stages.roles import LoadPrompts

Tokens = tuple[int, ...]
Scores = Sequence[Sequence[float]]

DEFAULT_LIMITS: Mapping[Literal["float32", "bfloat16"], float] = {"float32": 0.01, "bfloat16": 1.0}
"""Nats; docs/rl.md says what was measured."""
_MOST_TOKENS = 64
"""Of one sequence: enough to look at every weight, little enough to cost nothing."""
_NUM_CANDIDATES = 1024
"""Prompts among which the probe's are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What is scored, and how far the scores may differ."""

    sequences: tuple[Tokens, ...]
    """None where the specification wants no probe."""
    limit: float
    """Nats, between the log-probs of one token."""


def make_probe(spec: ExperimentSpec, load_prompts: LoadPrompts) -> Probe:
    """The experiment's own prompts, those of reinforcement learning if it has any, drawn by its seed.

    The same in every attempt. A prompt with less than two tokens has nothing to score: the next ones are joined to it.
    """
    settings, stage = spec.weight_sync, spec.rl or spec.evaluation
    limit = settings.probe_max_logprob_diff or DEFAULT_LIMITS[spec.model.dtype]
    if not settings.probe_num_sequences or stage is None:
        return Probe(sequences=(), limit=limit)
    prompts = load_prompts(stage.data, spec.model.max_model_len - stage.max_completion_length, _NUM_CANDIDATES)
    order = random.Random(derive_seed(spec.seed, "weight sync probe"))
    # vLLM draws a token behind them, for which there must be room.
    most = min(_MOST_TOKENS, spec.model.max_model_len - 1)
    sequences = list[Tokens]()
    pending: Tokens = ()
    drawn = order.sample(prompts, len(prompts))
    for prompt in drawn * (settings.probe_num_sequences + 1):
        pending = (*pending, *prompt.token_ids)[:most]
        if len(pending) > 1:
            sequences.append(pending)
            pending = ()
        if len(sequences) == settings.probe_num_sequences:
            break
    return Probe(sequences=tuple(dict.fromkeys(sequences)), limit=limit)


def largest_gap(ours: Scores, theirs: Scores) -> float:
    """Between the log-probs of any token; infinite where one is no number. 0 without tokens."""
    gaps = [
        abs(one - other)
        for row, other_row in zip(ours, theirs, strict=True)
        for one, other in zip(row, other_row, strict=True)
    ]
    return max((math.inf if math.isnan(gap) else gap for gap in gaps), default=0.0)


class LazyProbe:
    """The probe, made when it is first asked for: data sets are read where they are needed."""

    def __init__(self, make: Callable[[], Probe]) -> None:
        self._make = make
        self._probe: Probe | None = None

    def __call__(self) -> Probe:
        if self._probe is None:
            self._probe = self._make()
        return self._probe
