"""The reinforcement learning stage: policy updates on rollouts, checkpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.contract.stages import RlSpec
from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.actors.trainer_results import RlPlan
from workers.actors.training_state import fingerprint, resume_training_state, save_training_state
from workers.data.token_sequence import TokenSequence
from workers.objectives.base import ObjectiveOutput, TokenStatistics
from workers.objectives.build import build_policy_gradient
from workers.objectives.fused_linear import WeightedLoss
from workers.objectives.policy_gradient import sampling_gap
from workers.objectives.step_metrics import token_means
from workers.rollouts import TrainingSample
from workers.seeds import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepData:
    """A step's samples with their per-token values end to end, in the order of the samples; N tokens in all."""

    sequences: list[TokenSequence]
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Where each sample's tokens begin, [samples + 1]."""
    rollout_logprobs_N: Tensor
    advantages_N: Tensor
    old_logprobs_N: Tensor
    """Of the trainer before the step's first update; filled in by the forward passes, 0 until then. Each rank knows
    those of its share until they are summed up."""

    def tokens_of(self, indices: Sequence[int]) -> Tensor:
        """Positions in [N] of the tokens of some samples, one sample after the other."""
        spans = [np.arange(self.offsets[index], self.offsets[index + 1]) for index in indices]
        return torch.from_numpy(np.concatenate(spans or [np.arange(0)])).to(self.old_logprobs_N.device)

    def num_tokens_of(self, indices: Sequence[int]) -> int:
        """Completion tokens of some samples."""
        return sum(len(self.sequences[index].completion_token_ids) for index in indices)


class RlRun:
    """One reinforcement learning stage with an optimizer of its own."""

    def __init__(self, policy: PolicyModel, spec: RlSpec, *, seed: int, checkpoint_root: str) -> None:
        """Resume from the newest whole checkpoint, or begin with the weights that the policy has now.

        Raises ConfigError if the checkpoint belongs to another specification or seed.
        """
        self._policy = policy
        self._spec = spec
        self._seed = seed
        self._root = checkpoint_root
        self._objective = build_policy_gradient(spec)
        self._optimization = Optimization(policy.parameters(), spec.optimizer, spec.num_steps)
        self._fingerprint = fingerprint(spec, seed=seed)
        resumed = resume_training_state(checkpoint_root, self._fingerprint, policy, self._optimization)
        self._step: int = resumed.facts["step"] if resumed.facts else 0
        self._num_tokens: int = resumed.facts["num_tokens"] if resumed.facts else 0
        self.plan = RlPlan(
            num_steps=spec.num_steps,
            first_step=self._step + 1,
            num_tokens=self._num_tokens,
            policy_version=resumed.facts["policy_version"] if resumed.facts else 0,
            resumed_from=resumed.location,
            skipped_checkpoints=resumed.skipped,
        )

    def step(self, step: int, samples: Sequence[TrainingSample], *, temperature: float) -> dict[str, float]:
        """Train on one step's rollouts, prompt after prompt in groups, and return its metrics.

        Raises ValueError if the step is not the next one or the samples do not fit the specification, NonFinite if a
        loss or gradient norm is not finite.
        """
        if step != self._step + 1:
            raise ValueError(f"step {step} cannot follow step {self._step}: steps run in order, from plan.first_step")
        data = _step_data(samples, self._spec, self._policy.device)
        updates = self._updates(step)
        if len(updates) > 1:
            self._fill_old_logprobs(data, temperature)
        outputs: list[ObjectiveOutput] = []
        norms: list[float] = []
        learning_rate = 0.0
        for indices in updates:
            # With a single update the policy before it is the policy in it: its own forward pass gives the old values.
            parts = self._backward(data, indices, temperature, fill_old=len(updates) == 1)
            whole = self._policy.ranks.merge(parts)
            loss = whole.metric_sums["actor/pg_loss"] / data.num_tokens_of(indices)
            learning_rate, norm = self._optimization.apply(step, loss, "rl")
            outputs.append(whole)
            norms.append(norm)
        if len(updates) == 1:
            self._policy.ranks.sum(data.old_logprobs_N)
        self._step = step
        self._num_tokens += len(data.advantages_N)
        means = token_means(outputs, len(data.advantages_N) * self._spec.num_iterations)
        own = {"actor/grad_norm": sum(norms) / len(norms), "actor/lr": learning_rate}
        return means | own | sampling_gap(data.old_logprobs_N, data.rollout_logprobs_N)

    def save(self, step: int, policy_version: int) -> str:
        """Write the checkpoint after `step`, the last one done, and keep the newest `save_total_limit`."""
        if step != self._step:
            raise ValueError(f"step {step} cannot be saved: the weights are those after step {self._step}")
        facts = {
            "stage": "rl",
            "fingerprint": self._fingerprint,
            "policy_version": policy_version,
            "num_tokens": self._num_tokens,
            "num_steps": self._spec.num_steps,
            "consumed_samples": {"count": step * self._spec.num_samples_per_step},
        }
        return save_training_state(
            self._root, step, self._policy, self._optimization, facts, keep=self._spec.save_total_limit
        )

    def _updates(self, step: int) -> list[list[int]]:
        """Sample indices of each optimizer update.

        Every iteration shuffles the groups of prompts, keeps each group together, and cuts the row into mini-batches.
        """
        num_groups, num_generations = self._spec.num_prompts_per_step, self._spec.num_generations
        size = self._spec.num_sequences_per_update
        updates = []
        for iteration in range(self._spec.num_iterations):
            seed = derive_seed(self._seed, "rl mini-batches", step, iteration)
            groups = np.random.Generator(np.random.PCG64(seed)).permutation(num_groups).tolist()
            row = [group * num_generations + index for group in groups for index in range(num_generations)]
            updates += [row[start : start + size] for start in range(0, len(row), size)]
        return updates

    def _backward(
        self, data: _StepData, indices: Sequence[int], temperature: float, *, fill_old: bool
    ) -> list[ObjectiveOutput]:
        """Add one update's gradients, micro-batch by micro-batch, over the update's own count of tokens."""
        num_tokens = data.num_tokens_of(indices)
        outputs = []
        for microbatch in self._microbatches(data, indices):
            surrogate = self._surrogate(data, data.tokens_of(microbatch), fill_old=fill_old)
            output = self._policy.loss([data.sequences[i] for i in microbatch], surrogate, temperature=temperature)
            torch.autograd.backward(output.loss_sum / num_tokens)
            outputs.append(output)
        return outputs

    def _surrogate(self, data: _StepData, tokens: Tensor, *, fill_old: bool) -> WeightedLoss:
        """The policy loss of a micro-batch, whose tokens lie at `tokens` of the step's."""

        def loss(statistics: TokenStatistics, rows: slice) -> ObjectiveOutput:
            taken = tokens[rows]
            if fill_old:
                data.old_logprobs_N[taken] = -statistics.nll_N.detach()
            return self._objective(statistics, data.old_logprobs_N[taken], data.advantages_N[taken])

        return loss

    @torch.no_grad()
    def _fill_old_logprobs(self, data: _StepData, temperature: float) -> None:
        for microbatch in self._microbatches(data, range(len(data.sequences))):
            statistics = self._policy.statistics([data.sequences[i] for i in microbatch], temperature=temperature)
            data.old_logprobs_N[data.tokens_of(microbatch)] = -statistics.nll_N
        # The updates share the samples out in another way.
        self._policy.ranks.sum(data.old_logprobs_N)

    def _microbatches(self, data: _StepData, indices: Sequence[int]) -> Iterator[list[int]]:
        sequences = [data.sequences[i] for i in indices]
        plan = self._policy.microbatches(sequences, self._spec.max_tokens_per_microbatch)
        for positions in plan:
            yield [indices[position] for position in positions]


def _step_data(samples: Sequence[TrainingSample], spec: RlSpec, device: torch.device) -> _StepData:
    """Check a step's samples and lay their per-token values end to end. Raises ValueError."""
    if len(samples) != spec.num_samples_per_step:
        raise ValueError(f"{len(samples)} samples given, but a step trains {spec.num_samples_per_step}")
    for index, sample in enumerate(samples):
        if not sample.completion_token_ids or len(sample.rollout_logprobs) != len(sample.completion_token_ids):
            raise ValueError(
                f"sample {index} has {len(sample.completion_token_ids)} completion tokens and "
                f"{len(sample.rollout_logprobs)} log-probs: both must be equal and not 0"
            )
    lengths = np.array([len(sample.completion_token_ids) for sample in samples])
    advantages = np.array([sample.advantage for sample in samples], dtype=np.float32)
    rollout_logprobs = np.array([value for sample in samples for value in sample.rollout_logprobs], dtype=np.float32)
    return _StepData(
        sequences=[
            TokenSequence(prompt_token_ids=s.prompt_token_ids, completion_token_ids=s.completion_token_ids)
            for s in samples
        ],
        offsets=np.concatenate([[0], lengths.cumsum()]),
        rollout_logprobs_N=torch.from_numpy(rollout_logprobs).to(device),
        advantages_N=torch.from_numpy(np.repeat(advantages, lengths)).to(device),
        old_logprobs_N=torch.zeros(int(lengths.sum()), dtype=torch.float32, device=device),
    )
