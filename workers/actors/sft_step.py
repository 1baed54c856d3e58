"""One optimizer step of the supervised stage: micro-batches, gradients over the step's own count of label tokens.

survey, where the objective needs one ──> forward and backward of each micro-batch ──> update
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from service.contract.stages import SftSpec
from workers.actors.embedding_noise import EmbeddingNoise
from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.actors.reference_model import ReferenceModel
from workers.data.token_sequence import TokenSequence
from workers.objectives.base import ObjectiveOutput, RowObjective, SupervisedObjective, SurveyObjective
from workers.objectives.build import row_loss
from workers.objectives.output_head import ReferenceRows
from workers.objectives.step_metrics import token_means
from workers.seeds import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """The samples of one pass."""

    samples: Sequence[TokenSequence]
    noise: EmbeddingNoise | None


class SftStep:
    """Trains on the samples of a step."""

    def __init__(
        self,
        policy: PolicyModel,
        optimization: Optimization,
        objective: SupervisedObjective,
        spec: SftSpec,
        *,
        reference: ReferenceModel | None = None,
        seed: int,
    ) -> None:
        """`reference` must be there if the objective needs one.

        Raises ConfigError if sequences shall be packed and the model cannot keep them apart.
        """
        self._policy = policy
        self._optimization = optimization
        self._objective = objective
        self._reference = reference
        self._spec = spec
        self._seed = seed
        if spec.packing:
            policy.require_packing()

    def run(self, step: int, samples: Sequence[TokenSequence]) -> dict[str, float]:
        """Update the weights once; returns the step's metrics. Raises NonFinite, the weights as they were."""
        num_tokens = sum(sample.num_labels for sample in samples)
        max_tokens = self._spec.microbatch_tokens(on_gpu=self._policy.on_gpu)
        plan = self._policy.microbatches(samples, max_tokens, packing=self._spec.packing)
        microbatches = [
            MicroBatch(samples=[samples[index] for index in indices], noise=self._noise(step, indices))
            for indices in plan
        ]
        objective = self._settled(microbatches)
        whole = self._policy.ranks.merge(
            [self._backward(objective, microbatch, num_tokens) for microbatch in microbatches]
        )
        loss = whole.metric_sums["sft/loss"] / num_tokens
        learning_rate, grad_norm = self._optimization.apply(step, loss, "sft")
        return token_means([whole], num_tokens) | {
            "sft/learning_rate": learning_rate,
            "sft/grad_norm": grad_norm,
            "sft/num_tokens": float(num_tokens),
        }

    def _settled(self, microbatches: Sequence[MicroBatch]) -> RowObjective:
        """The objective for this step. One that needs a survey first sees each of the step's label tokens."""
        objective = self._objective
        if not isinstance(objective, SurveyObjective):
            return objective
        observed = [
            objective.observed(
                self._policy.statistics(
                    microbatch.samples,
                    needs=objective.needs,
                    reference=self._reference_rows(objective, microbatch),
                    noise=microbatch.noise,
                    packing=self._spec.packing,
                )
            )
            for microbatch in microbatches
        ]
        return objective.settled(self._policy.ranks.gather_values(torch.cat(observed)))

    def _backward(self, objective: RowObjective, microbatch: MicroBatch, num_tokens: int) -> ObjectiveOutput:
        output = self._policy.loss(
            microbatch.samples,
            row_loss(objective),
            needs=objective.needs,
            reference=self._reference_rows(objective, microbatch),
            noise=microbatch.noise,
            packing=self._spec.packing,
        )
        # The step's denominator, not the micro-batch's nor the rank's: the gradients add up to that of the whole.
        torch.autograd.backward(output.loss_sum / num_tokens)
        return output

    def _reference_rows(self, objective: SupervisedObjective, microbatch: MicroBatch) -> ReferenceRows | None:
        if not objective.needs.reference:
            return None
        assert self._reference is not None, "the objective needs a reference model"
        return self._reference.rows(microbatch.samples, packing=self._spec.packing)

    def _noise(self, step: int, indices: Sequence[int]) -> EmbeddingNoise | None:
        """NEFTune's noise for samples of a step: by their place in the step, so that no micro-batch changes it."""
        if self._spec.neftune_alpha is None:
            return None
        seeds = tuple(derive_seed(self._seed, "neftune", step, index) for index in indices)
        return EmbeddingNoise(alpha=self._spec.neftune_alpha, seeds=seeds)
