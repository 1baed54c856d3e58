"""A reinforcement learning step's samples as the trainer computes with them, and the loss of a micro-batch of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.contract.stages import RlSpec
from workers.data.token_sequence import TokenSequence
from workers.objectives.base import ObjectiveOutput, TokenStatistics
from workers.objectives.fused_linear import FusedLoss, SurveyedLoss, WeightedLoss
from workers.objectives.policy_gradient import over_sequences
from workers.objectives.policy_objective import PolicyObjective, PolicyTokens, divisor, token_weights
from workers.objectives.rollout_correction import correction_weights
from workers.rollouts import TrainingSample


@dataclass(frozen=True, slots=True, kw_only=True)
class StepData:
    """A step's samples with their per-token values end to end, in the order of the samples; N tokens in all."""

    sequences: list[TokenSequence]
    is_trained: list[bool]
    """By sample."""
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Where each sample's tokens begin, [samples + 1]."""
    rollout_logprobs_N: Tensor
    advantages_N: Tensor
    weights_N: Tensor
    """In the sum over an update's tokens."""
    old_logprobs_N: Tensor
    """Of the trainer before the step's first update; filled in by the forward passes, 0 until then. Each rank knows
    those of its share until they are summed up."""
    reference_logprobs_N: Tensor | None
    """Of the policy with which the stage began, filled in alike; None where the loss has no divergence from it."""

    @classmethod
    def of(cls, samples: Sequence[TrainingSample], spec: RlSpec, device: torch.device) -> "StepData":
        """Check a step's samples and lay their per-token values end to end. Raises ValueError."""
        _require_fit(samples, spec)
        lengths = np.array([len(sample.completion_token_ids) for sample in samples])
        is_trained = [sample.is_trained for sample in samples]

        def by_token(values: Sequence[float]) -> Tensor:
            return torch.from_numpy(np.repeat(np.array(values, dtype=np.float32), lengths)).to(device)

        rollout_logprobs = [value for sample in samples for value in sample.rollout_logprobs]
        unknown_N = torch.zeros(int(lengths.sum()), dtype=torch.float32, device=device)
        return cls(
            sequences=[
                TokenSequence(prompt_token_ids=s.prompt_token_ids, completion_token_ids=s.completion_token_ids)
                for s in samples
            ],
            is_trained=is_trained,
            offsets=np.concatenate([[0], lengths.cumsum()]),
            rollout_logprobs_N=torch.from_numpy(np.array(rollout_logprobs, dtype=np.float32)).to(device),
            advantages_N=by_token([sample.advantage for sample in samples]),
            weights_N=by_token(token_weights(lengths.tolist(), is_trained, spec.loss_agg_mode)),
            old_logprobs_N=unknown_N,
            reference_logprobs_N=unknown_N.clone() if spec.beta else None,
        )

    def tokens_of(self, indices: Sequence[int]) -> Tensor:
        """Positions in [N] of the tokens of some samples, one sample after the other."""
        spans = [np.arange(self.offsets[index], self.offsets[index + 1]) for index in indices]
        return torch.from_numpy(np.concatenate(spans or [np.arange(0)])).to(self.old_logprobs_N.device)

    def lengths_of(self, indices: Sequence[int]) -> list[int]:
        """Completion tokens of each of some samples."""
        return [len(self.sequences[index].completion_token_ids) for index in indices]

    def divisor_of(self, indices: Sequence[int], spec: RlSpec) -> int:
        """What an update's weighted sum over the tokens of some samples is divided by."""
        is_trained = [self.is_trained[index] for index in indices]
        return divisor(self.lengths_of(indices), is_trained, spec.loss_agg_mode, spec.max_completion_length)


class MicroBatchLoss:
    """The loss of some samples in the form in which the fused sweep takes it: chunk by chunk of their tokens."""

    def __init__(
        self, objective: PolicyObjective, spec: RlSpec, data: StepData, indices: Sequence[int], *, fill_old: bool
    ) -> None:
        """`fill_old`: the log-probs that the sweep finds are those before the step's first update."""
        self._objective = objective
        self._spec = spec
        self._data = data
        self._tokens = data.tokens_of(indices)
        self._lengths = data.lengths_of(indices)
        self._fill_old = fill_old

    def form(self) -> FusedLoss:
        """Ratios of sequences need all tokens before the first gradient; others take each chunk as it comes."""
        if self._objective.by_sequence or self._spec.rollout_correction.mode.startswith("sequence_"):
            return _OverSequences(self)
        return self._by_token

    def over_sequences(self, statistics: TokenStatistics) -> WeightedLoss:
        """The loss once the statistics of all tokens are known."""
        data, logprobs_N = self._data, -statistics.nll_N
        if self._fill_old:
            data.old_logprobs_N[self._tokens] = logprobs_N
        old_N = data.old_logprobs_N[self._tokens]
        log_ratio_N = over_sequences(logprobs_N - old_N, self._lengths, "mean") if self._objective.by_sequence else None
        correction_N = correction_weights(
            self._spec.rollout_correction, old_N, data.rollout_logprobs_N[self._tokens], self._lengths
        )

        def loss(statistics: TokenStatistics, rows: slice) -> ObjectiveOutput:
            known = self._known(self._tokens[rows], _rows_of(correction_N, rows), _rows_of(log_ratio_N, rows))
            return self._objective(statistics, known)

        return loss

    def _by_token(self, statistics: TokenStatistics, rows: slice) -> ObjectiveOutput:
        taken = self._tokens[rows]
        if self._fill_old:
            self._data.old_logprobs_N[taken] = -statistics.nll_N.detach()
        correction_C = correction_weights(
            self._spec.rollout_correction, self._data.old_logprobs_N[taken], self._data.rollout_logprobs_N[taken], []
        )
        return self._objective(statistics, self._known(taken, correction_C, None))

    def _known(self, taken: Tensor, correction_C: Tensor | None, sequence_log_ratio_C: Tensor | None) -> PolicyTokens:
        data = self._data
        return PolicyTokens(
            old_logprobs_N=data.old_logprobs_N[taken],
            advantages_N=data.advantages_N[taken],
            weights_N=data.weights_N[taken],
            correction_N=correction_C,
            sequence_log_ratio_N=sequence_log_ratio_C,
            reference_logprobs_N=_rows_of(data.reference_logprobs_N, taken),
        )


class _OverSequences(SurveyedLoss):
    def __init__(self, microbatch: MicroBatchLoss) -> None:
        self._microbatch = microbatch

    def settled(self, statistics: TokenStatistics) -> WeightedLoss:
        return self._microbatch.over_sequences(statistics)


def _rows_of(values_N: Tensor | None, rows: slice | Tensor) -> Tensor | None:
    return None if values_N is None else values_N[rows]


def _require_fit(samples: Sequence[TrainingSample], spec: RlSpec) -> None:
    if len(samples) != spec.num_samples_per_step:
        raise ValueError(f"{len(samples)} samples given, but a step trains {spec.num_samples_per_step}")
    for index, sample in enumerate(samples):
        if not sample.completion_token_ids or len(sample.rollout_logprobs) != len(sample.completion_token_ids):
            raise ValueError(
                f"sample {index} has {len(sample.completion_token_ids)} completion tokens and "
                f"{len(sample.rollout_logprobs)} log-probs: both must be equal and not 0"
            )
