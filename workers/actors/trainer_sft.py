"""The supervised stage: data, threshold, optimizer steps, checkpoints."""

import time

from service.contract.stages import SftSpec
from workers.actors.metric_tail import MetricTail, carried_metrics
from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.actors.sft_step import SftStep
from workers.actors.sft_threshold import Threshold, calibrate_threshold
from workers.actors.trainer_results import SftPlan, StepMetrics
from workers.actors.training_state import fingerprint, resume_training_state, save_training_state
from workers.data.sft_dataset import load_sft_dataset
from workers.objectives.build import build_supervised


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
        self._num_steps = spec.num_epochs * self._dataset.num_steps_per_epoch(spec.batch_size)
        self._optimization = Optimization(policy.parameters(), spec.optimizer, self._num_steps)
        self._fingerprint = fingerprint(spec, seed=seed, data=self._dataset.digest())
        resumed = resume_training_state(checkpoint_root, self._fingerprint, policy, self._optimization)
        self._step: int = resumed.facts["step"] if resumed.facts else 0
        carried = carried_metrics(resumed.facts["metric_tail"]) if resumed.facts else ()
        self._tail = MetricTail(carried)
        self._threshold = (
            Threshold.from_facts(resumed.facts["threshold"])
            if resumed.facts
            else calibrate_threshold(policy, spec, self._dataset.samples)
        )
        objective = build_supervised(spec.objective, self._threshold.tau)
        self._trainer = SftStep(policy, self._optimization, objective, spec, seed=seed)
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
            carried_metrics=carried,
        )

    def steps(self, *, max_steps: int, max_seconds: float) -> list[StepMetrics]:
        """Whole steps until one of the limits, at least one if any is left; an empty list means that all are done."""
        deadline = time.monotonic() + max_seconds
        done: list[StepMetrics] = []
        while self._step < self._num_steps and len(done) < max_steps:
            done.append(self._next_step())
            self._tail.add(done[-1])
            if self._step % self._spec.save_steps == 0 or self._step == self._num_steps:
                self._save()
            # One clock for all ranks: another one's might end a slice a step earlier.
            if self._policy.ranks.from_first(lambda: time.monotonic() >= deadline):
                break
        return done

    def _next_step(self) -> StepMetrics:
        step = self._step + 1
        samples = self._dataset.batch(step, batch_size=self._spec.batch_size, seed=self._seed)
        values = self._trainer.run(step, samples)
        self._step = step
        values["sft/epoch"] = step * self._spec.num_epochs / self._num_steps
        if self._threshold.tau is not None:
            values["sft/sed/tau"] = self._threshold.tau
        return StepMetrics(step=step, values=values)

    def _save(self) -> None:
        facts = {
            "stage": "sft",
            "fingerprint": self._fingerprint,
            "threshold": self._threshold.as_facts(),
            "metric_tail": self._tail.as_facts(),
            "num_steps": self._num_steps,
            "consumed_samples": self._dataset.consumed(self._step, batch_size=self._spec.batch_size),
        }
        save_training_state(
            self._root, self._step, self._policy, self._optimization, facts, keep=self._spec.save_total_limit
        )
        self._tail.checkpointed()
