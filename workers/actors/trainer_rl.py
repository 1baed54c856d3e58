"""The reinforcement learning stage: policy updates on rollouts, checkpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from service.contract.stages import RlSpec
from workers.actors.frozen_weights import build_reference
from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.actors.rl_step_data import MicroBatchLoss, StepData
from workers.actors.trainer_results import ConsumedPrompts, RlCarried, RlPlan
from workers.actors.training_state import fingerprint, resume_training_state, save_training_state
from workers.checkpoints import Checkpoint
from workers.objectives.base import ObjectiveOutput
from workers.objectives.build import build_policy_objective
from workers.objectives.policy_gradient import sampling_gap
from workers.objectives.rollout_correction import correction_metrics, correction_weights
from workers.objectives.step_metrics import token_means
from workers.rollouts import TrainingSample
from workers.seeds import derive_seed

UNTRAINED = "untrained_groups.json"
"""The file of a checkpoint with groups that the driver had finished for later steps."""


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
        self._objective = build_policy_objective(spec)
        self._optimization = Optimization(policy.parameters(), spec.optimizer, spec.num_steps)
        self._reference = build_reference(policy, spec)
        self._fingerprint = fingerprint(spec, seed=seed)
        resumed = resume_training_state(
            checkpoint_root, self._fingerprint, policy, self._optimization, more=self._reference_tensors()
        )
        self._step: int = resumed.facts["step"] if resumed.facts else 0
        self._num_tokens: int = resumed.facts["num_tokens"] if resumed.facts else 0
        self.plan = RlPlan(
            num_steps=spec.num_steps,
            first_step=self._step + 1,
            num_tokens=self._num_tokens,
            policy_version=resumed.facts["policy_version"] if resumed.facts else 0,
            resumed_from=resumed.location,
            skipped_checkpoints=resumed.skipped,
            carried=_carried(resumed.checkpoint) if resumed.checkpoint and policy.ranks.is_first else None,
        )

    def step(self, step: int, samples: Sequence[TrainingSample], *, temperature: float) -> dict[str, float]:
        """Train on one step's rollouts, prompt after prompt in groups, and return its metrics.

        Raises ValueError if the step is not the next one or the samples do not fit the specification, NonFinite if a
        loss or gradient norm is not finite.
        """
        if step != self._step + 1:
            raise ValueError(f"step {step} cannot follow step {self._step}: steps run in order, from plan.first_step")
        data = StepData.of(samples, self._spec, self._policy.device)
        if self._reference is not None:
            assert data.reference_logprobs_N is not None
            with self._reference.in_place():
                self._fill_logprobs(data, data.reference_logprobs_N, temperature)
        updates = self._updates(step)
        if len(updates) > 1:
            self._fill_logprobs(data, data.old_logprobs_N, temperature)
        outputs: list[ObjectiveOutput] = []
        norms: list[float] = []
        divisors: list[int] = []
        learning_rate = 0.0
        for indices in updates:
            divisors.append(data.divisor_of(indices, self._spec))
            # With a single update the policy before it is the policy in it: its own forward pass gives the old values.
            parts = self._backward(data, indices, divisors[-1], temperature, fill_old=len(updates) == 1)
            whole = self._policy.ranks.merge(parts)
            loss = whole.metric_sums["actor/pg_loss"] / divisors[-1]
            learning_rate, norm = self._optimization.apply(step, loss, "rl")
            outputs.append(whole)
            norms.append(norm)
        if len(updates) == 1:
            self._policy.ranks.sum(data.old_logprobs_N)
        self._step = step
        self._num_tokens += len(data.advantages_N)
        means = token_means(outputs, len(data.advantages_N) * self._spec.num_iterations)
        # The one sum whose tokens are weighed: over the updates as over all their tokens.
        means["actor/pg_loss"] = token_means(outputs, sum(divisors))["actor/pg_loss"]
        own = {"actor/grad_norm": sum(norms) / len(norms), "actor/lr": learning_rate}
        return means | own | self._sampling_metrics(data)

    def save(self, step: int, policy_version: int, carried: RlCarried | None = None) -> str:
        """Write the checkpoint after `step`, the last one done, and keep the newest `save_total_limit`.

        `carried` is for whoever resumes, who finds it in the plan of rank 0.
        """
        if step != self._step:
            raise ValueError(f"step {step} cannot be saved: the weights are those after step {self._step}")
        facts = {
            "stage": "rl",
            "fingerprint": self._fingerprint,
            "policy_version": policy_version,
            "num_tokens": self._num_tokens,
            "num_steps": self._spec.num_steps,
            "consumed_samples": {"count": step * self._spec.num_samples_per_step},
            "consumed_prompts": asdict(carried.consumed_prompts) if carried else None,
        }
        return save_training_state(
            self._root,
            step,
            self._policy,
            self._optimization,
            facts,
            keep=self._spec.save_total_limit,
            more=self._reference_tensors(),
            more_files={UNTRAINED: carried.untrained_groups} if carried and carried.untrained_groups else {},
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
        self, data: StepData, indices: Sequence[int], divisor: int, temperature: float, *, fill_old: bool
    ) -> list[ObjectiveOutput]:
        """Add one update's gradients, micro-batch by micro-batch, over the update's own divisor."""
        outputs = []
        for microbatch in self._microbatches(data, indices):
            loss = MicroBatchLoss(self._objective, self._spec, data, microbatch, fill_old=fill_old)
            output = self._policy.loss(
                [data.sequences[i] for i in microbatch],
                loss.form(),
                needs=self._objective.needs,
                temperature=temperature,
                packing=self._policy.packs,
                share_prompts=self._policy.packs,
            )
            torch.autograd.backward(output.loss_sum / divisor)
            outputs.append(output)
        return outputs

    @torch.no_grad()
    def _fill_logprobs(self, data: StepData, values_N: Tensor, temperature: float) -> None:
        """Write the log-probs of all the step's tokens under the present weights, on all ranks."""
        for microbatch in self._microbatches(data, range(len(data.sequences))):
            statistics = self._policy.statistics(
                [data.sequences[i] for i in microbatch],
                temperature=temperature,
                packing=self._policy.packs,
                share_prompts=self._policy.packs,
            )
            values_N[data.tokens_of(microbatch)] = -statistics.nll_N
        # The updates share the samples out in another way.
        self._policy.ranks.sum(values_N)

    def _sampling_metrics(self, data: StepData) -> dict[str, float]:
        """Trainer against rollout engine, and the weights that made up for it."""
        lengths = data.lengths_of(range(len(data.sequences)))
        gap = sampling_gap(data.old_logprobs_N, data.rollout_logprobs_N)
        weights_N = correction_weights(
            self._spec.rollout_correction, data.old_logprobs_N, data.rollout_logprobs_N, lengths
        )
        return gap if weights_N is None else gap | correction_metrics(weights_N)

    def _reference_tensors(self) -> dict[str, Tensor]:
        if self._reference is None:
            return {}
        return {f"reference.{name}": tensor for name, tensor in self._reference.state().items()}

    def _microbatches(self, data: StepData, indices: Sequence[int]) -> Iterator[list[int]]:
        sequences = [data.sequences[i] for i in indices]
        packs, max_tokens = self._policy.packs, self._spec.microbatch_tokens(on_gpu=self._policy.on_gpu)
        plan = self._policy.microbatches(sequences, max_tokens, packing=packs, share_prompts=packs)
        for positions in plan:
            yield [indices[position] for position in positions]


def _carried(checkpoint: Checkpoint) -> RlCarried | None:
    """What `RlRun.save` was given; None if it was given nothing."""
    consumed = checkpoint.facts.get("consumed_prompts")
    if consumed is None:
        return None
    try:
        with checkpoint.open(UNTRAINED) as file:
            groups = file.read()
    except FileNotFoundError:
        groups = b""
    return RlCarried(consumed_prompts=ConsumedPrompts(**consumed), untrained_groups=groups)
