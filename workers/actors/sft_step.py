"""One optimizer step of the supervised stage: micro-batches, gradients over the step's own count of label tokens."""

from collections.abc import Sequence

import torch

from service.contract.stages import SftSpec
from workers.actors.embedding_noise import EmbeddingNoise
from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.data.token_sequence import TokenSequence
from workers.objectives.base import ObjectiveOutput, SupervisedObjective
from workers.objectives.build import row_loss
from workers.objectives.step_metrics import token_means
from workers.seeds import derive_seed


class SftStep:
    """Trains on the samples of a step."""

    def __init__(
        self,
        policy: PolicyModel,
        optimization: Optimization,
        objective: SupervisedObjective,
        spec: SftSpec,
        *,
        seed: int,
    ) -> None:
        self._policy = policy
        self._optimization = optimization
        self._objective = objective
        self._spec = spec
        self._seed = seed

    def run(self, step: int, samples: Sequence[TokenSequence]) -> dict[str, float]:
        """Update the weights once; returns the step's metrics. Raises NonFinite, the weights as they were."""
        num_tokens = sum(sample.num_labels for sample in samples)
        outputs = self._backward(step, samples, num_tokens)
        whole = self._policy.ranks.merge(outputs)
        loss = whole.metric_sums["sft/loss"] / num_tokens
        learning_rate, grad_norm = self._optimization.apply(step, loss, "sft")
        return token_means([whole], num_tokens) | {
            "sft/learning_rate": learning_rate,
            "sft/grad_norm": grad_norm,
            "sft/num_tokens": float(num_tokens),
        }

    def _backward(self, step: int, samples: Sequence[TokenSequence], num_tokens: int) -> list[ObjectiveOutput]:
        outputs = []
        for indices in self._policy.microbatches(samples, self._spec.max_tokens_per_microbatch):
            output = self._policy.loss(
                [samples[index] for index in indices],
                row_loss(self._objective),
                needs=self._objective.needs,
                noise=self._noise(step, indices),
            )
            # The step's denominator, not the micro-batch's nor the rank's: the gradients add up to that of the whole.
            torch.autograd.backward(output.loss_sum / num_tokens)
            outputs.append(output)
        return outputs

    def _noise(self, step: int, indices: Sequence[int]) -> EmbeddingNoise | None:
        """NEFTune's noise for samples of a step: by their place in the step, so that no micro-batch changes it."""
        if self._spec.neftune_alpha is None:
            return None
        seeds = tuple(derive_seed(self._seed, "neftune", step, index) for index in indices)
        return EmbeddingNoise(alpha=self._spec.neftune_alpha, seeds=seeds)
