"""The supervised stage: calibration, optimizer steps, checkpoints."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from service.contract.objectives import EaftObjective, SedObjective
from service.contract.stages import SftSpec
from workers.actors.embedding_noise import EmbeddingNoise
from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.actors.trainer_results import Histogram, SftPlan, StepMetrics
from workers.actors.training_state import fingerprint, resume_training_state, save_training_state
from workers.data.batching import TokenSequence, plan_microbatches
from workers.data.sft_dataset import load_sft_dataset
from workers.determinism import derive_seed
from workers.model_loading import ConfigError
from workers.objectives.base import ObjectiveOutput, StatisticsNeeds
from workers.objectives.build import build_supervised, needs_calibration, row_loss
from workers.objectives.sed_sft import calibrate_tau
from workers.objectives.step_metrics import token_means

CHECKPOINTS_KEPT = 2
"""The newest, and one before it in case the newest turns out damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Threshold:
    """SED's tau and where it comes from; all empty for other objectives."""

    tau: float | None = None
    num_tokens: int = 0
    histogram: Histogram | None = None


class SftRun:
    """One supervised stage from its first to its last step, or from a checkpoint on."""

    def __init__(self, policy: PolicyModel, spec: SftSpec, *, seed: int, checkpoint_root: str) -> None:
        """Load the data, then resume from the newest whole checkpoint or calibrate tau on the untrained model.

        Raises ConfigError if the data cannot work or the checkpoint belongs to something else.
        """
        self._policy = policy
        self._spec = spec
        self._seed = seed
        self._root = checkpoint_root
        self._dataset = load_sft_dataset(spec, policy.tokenizer)
        self._require_top_k()
        self._num_steps = spec.num_epochs * self._dataset.num_steps_per_epoch(spec.batch_size)
        self._optimization = Optimization(policy.parameters(), spec.optimizer, self._num_steps)
        self._fingerprint = fingerprint(spec, seed=seed, data=self._dataset.digest())
        resumed = resume_training_state(checkpoint_root, self._fingerprint, policy, self._optimization)
        self._step: int = resumed.facts["step"] if resumed.facts else 0
        self._threshold = _threshold_of(resumed.facts) if resumed.facts else self._calibrate()
        self._objective = build_supervised(spec.objective, self._threshold.tau)
        self.plan = SftPlan(
            num_samples=len(self._dataset.samples),
            num_dropped=self._dataset.num_dropped,
            num_steps=self._num_steps,
            first_step=self._step + 1,
            tau=self._threshold.tau,
            tau_histogram=self._threshold.histogram,
            tau_num_tokens=self._threshold.num_tokens,
            resumed_from=resumed.location,
            skipped_checkpoints=resumed.skipped,
        )

    def steps(self, *, max_steps: int, max_seconds: float) -> list[StepMetrics]:
        """Whole steps until one of the limits, at least one if any is left; an empty list means that all are done."""
        deadline = time.monotonic() + max_seconds
        done: list[StepMetrics] = []
        while self._step < self._num_steps and len(done) < max_steps:
            done.append(self._next_step())
            if self._step % self._spec.save_steps == 0 or self._step == self._num_steps:
                self._save()
            if time.monotonic() >= deadline:
                break
        return done

    def _next_step(self) -> StepMetrics:
        step = self._step + 1
        samples = self._dataset.batch(step, batch_size=self._spec.batch_size, seed=self._seed)
        num_tokens = sum(len(sample.completion_token_ids) for sample in samples)
        outputs: list[ObjectiveOutput] = []
        for indices in plan_microbatches(samples, self._spec.max_tokens_per_microbatch):
            output = self._policy.loss(
                [samples[index] for index in indices],
                row_loss(self._objective),
                needs=self._objective.needs,
                noise=self._noise(step, indices),
            )
            # The step's denominator, not the micro-batch's: the gradients of the parts add up to that of the whole.
            torch.autograd.backward(output.loss_sum / num_tokens)
            outputs.append(output)
        loss = torch.stack([output.metric_sums["sft/loss"] for output in outputs]).sum() / num_tokens
        learning_rate, grad_norm = self._optimization.apply(step, loss, "sft")
        self._step = step
        values = token_means(outputs, num_tokens) | {
            "sft/learning_rate": learning_rate,
            "sft/grad_norm": grad_norm,
            "sft/num_tokens": float(num_tokens),
            "sft/epoch": step * self._spec.num_epochs / self._num_steps,
        }
        if self._threshold.tau is not None:
            values["sft/sed/tau"] = self._threshold.tau
        return StepMetrics(step=step, values=values)

    def _noise(self, step: int, indices: Sequence[int]) -> EmbeddingNoise | None:
        """NEFTune's noise for samples of a step: by their place in the step, so that no micro-batch changes it."""
        if self._spec.neftune_alpha is None:
            return None
        seeds = tuple(derive_seed(self._seed, "neftune", step, index) for index in indices)
        return EmbeddingNoise(alpha=self._spec.neftune_alpha, seeds=seeds)

    def _calibrate(self) -> _Threshold:
        objective = self._spec.objective
        if not isinstance(objective, SedObjective) or objective.mask == "none":
            return _Threshold()
        if not needs_calibration(objective):
            return _Threshold(tau=objective.tau)
        samples = self._dataset.samples[: objective.calibration_samples]
        calibration = calibrate_tau(self._topk_masses(samples, objective.top_k), objective.mask_ratio)
        histogram = Histogram(low=0.0, high=1.0, counts=calibration.histogram_counts)
        return _Threshold(tau=calibration.tau, num_tokens=calibration.num_tokens, histogram=histogram)

    @torch.no_grad()
    def _topk_masses(self, samples: Sequence[TokenSequence], top_k: int) -> list[Tensor]:
        masses = []
        for indices in plan_microbatches(samples, self._spec.max_tokens_per_microbatch):
            microbatch = [samples[index] for index in indices]
            mass_N = self._policy.statistics(microbatch, needs=StatisticsNeeds(top_k=top_k)).topk_mass_N
            assert mass_N is not None
            masses.append(mass_N)
        return masses

    def _require_top_k(self) -> None:
        objective, vocab_size = self._spec.objective, self._policy.facts.vocab_size
        if isinstance(objective, SedObjective | EaftObjective) and objective.top_k > vocab_size:
            usual = "2 or 3" if isinstance(objective, SedObjective) else "20"
            raise ConfigError(
                f"sft.objective.top_k {objective.top_k} exceeds the model's vocabulary of {vocab_size}; "
                f"the paper uses {usual}"
            )

    def _save(self) -> None:
        facts = {"stage": "sft", "fingerprint": self._fingerprint, "threshold": asdict(self._threshold)}
        save_training_state(self._root, self._step, self._policy, self._optimization, facts, keep=CHECKPOINTS_KEPT)


def _threshold_of(facts: dict[str, Any]) -> _Threshold:
    stored = facts["threshold"]
    histogram = stored["histogram"]
    return _Threshold(
        tau=stored["tau"],
        num_tokens=stored["num_tokens"],
        histogram=histogram and Histogram(**(histogram | {"counts": tuple(histogram["counts"])})),
    )
