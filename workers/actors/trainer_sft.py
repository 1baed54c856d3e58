"""The supervised stage: data, threshold, optimizer steps, checkpoints."""

import time

from service.contract.messages import TokenView
from service.contract.objectives import needs_reference_model
from service.contract.stages import SftSpec
from workers.actors.best_checkpoints import BestCheckpoints
from workers.actors.metric_tail import MetricTail, carried_metrics
from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.actors.reference_model import ReferenceModel
from workers.actors.sft_evaluation import HeldOutEvaluation
from workers.actors.sft_step import SftStep
from workers.actors.sft_threshold import Threshold, calibrate_threshold
from workers.actors.trainer_results import SftEnd, SftPlan, SftSlice, StepMetrics
from workers.actors.training_state import fingerprint, load_weights, resume_training_state, save_training_state
from workers.checkpoints import DamagedCheckpoint, SkippedCheckpoint, checkpoint_name
from workers.config_error import ConfigError
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
        self._best = BestCheckpoints(spec, resumed.facts["best_checkpoints"] if resumed.facts else ())
        objective = build_supervised(spec.objective, self._threshold.tau)
        reference = ReferenceModel(policy) if needs_reference_model(spec.objective) else None
        self._trainer = SftStep(policy, self._optimization, objective, spec, reference=reference, seed=seed)
        self._evaluation = HeldOutEvaluation(policy, spec, objective, self._dataset.held_out, tau=self._threshold.tau)
        self._is_looked_at = False
        self.plan = SftPlan(
            num_samples=len(self._dataset.samples),
            num_held_out=self._dataset.num_held_out,
            num_dropped=self._dataset.num_dropped,
            num_truncated=self._dataset.num_truncated,
            **self._dataset.lineage.as_facts(),
            num_steps=self._num_steps,
            first_step=self._step + 1,
            tau=self._threshold.tau,
            tau_histogram=self._threshold.histogram,
            tau_num_tokens=self._threshold.num_tokens,
            resumed_from=resumed.location,
            skipped_checkpoints=resumed.skipped,
            carried_metrics=carried,
        )

    def steps(self, *, max_steps: int, max_seconds: float) -> SftSlice:
        """Whole steps until one of the limits, at least one if any is left; none means that all are done."""
        deadline = time.monotonic() + max_seconds
        steps: list[StepMetrics] = []
        evaluations, views = self._first_look()
        while self._step < self._num_steps and len(steps) < max_steps:
            steps.append(self._next_step())
            evaluations += self._measured()
            views += self._viewed()
            if self._is_checkpoint:
                self._save()
            # One clock for all ranks: another one's might end a slice a step earlier.
            if self._policy.ranks.from_first(lambda: time.monotonic() >= deadline):
                break
        return SftSlice(steps=tuple(steps), evaluations=tuple(evaluations), token_views=tuple(views))

    def save(self) -> str:
        """Write the checkpoint after the last step done. The stage goes on from it as if it had never stopped."""
        return self._save()

    def end(self) -> SftEnd:
        """Take the weights with which the stage ends, all steps done. Raises ConfigError if none can be loaded."""
        assert self._step == self._num_steps, "the stage ends with its last step"
        ranking = self._best.ranking
        if self._spec.export == "last":
            return SftEnd(exported_step=self._step, best_checkpoints=ranking)
        skipped = []
        for ranked in ranking:
            try:
                load_weights(self._root, ranked.step, self._policy)
            except DamagedCheckpoint as error:
                skipped.append(SkippedCheckpoint(name=checkpoint_name(ranked.step), reason=str(error)))
                continue
            return SftEnd(exported_step=ranked.step, best_checkpoints=ranking, skipped_best_checkpoints=tuple(skipped))
        raise ConfigError(
            f"none of the {len(ranking)} best checkpoints in {self._root} can be loaded"
            + "".join(f"; {found.name}: {found.reason}" for found in skipped)
            + "; restore the folder, or submit the experiment with sft.export 'last'"
        )

    @property
    def _is_checkpoint(self) -> bool:
        """Whether a checkpoint follows the step that was done last."""
        return self._step % self._spec.save_steps == 0 or self._step == self._num_steps

    def _first_look(self) -> tuple[list[StepMetrics], list[TokenView]]:
        """What is measured before the first step of this process.

        A resumed run has its checkpoint's metrics in the tail, but not its views.
        """
        if self._is_looked_at:
            return [], []
        self._is_looked_at = True
        return self._measured() if self._step == 0 else [], self._viewed()

    def _measured(self) -> list[StepMetrics]:
        """The held-out metrics, if they are due after the present step; its checkpoint is ranked by them."""
        is_ranked = self._step > 0 and self._is_checkpoint and self._spec.num_best_checkpoints > 0
        if not (is_ranked or self._evaluation.is_due(self._step, self._num_steps)):
            return []
        metrics = self._evaluation.measure(self._step)
        self._tail.add(metrics)
        if is_ranked:
            self._best.add(self._step, metrics.values)
        return [metrics]

    def _viewed(self) -> list[TokenView]:
        """The token views, if they are due after the present step."""
        is_due = self._evaluation.is_due(self._step, self._num_steps)
        return self._evaluation.token_views(self._step) if is_due else []

    def _next_step(self) -> StepMetrics:
        step = self._step + 1
        samples = self._dataset.batch(step, batch_size=self._spec.batch_size, seed=self._seed)
        values = self._trainer.run(step, samples)
        self._step = step
        values["sft/epoch"] = step * self._spec.num_epochs / self._num_steps
        if self._threshold.tau is not None:
            values["sft/sed/tau"] = self._threshold.tau
        metrics = StepMetrics(step=step, values=values)
        self._tail.add(metrics)
        return metrics

    def _save(self) -> str:
        facts = {
            "stage": "sft",
            "fingerprint": self._fingerprint,
            "threshold": self._threshold.as_facts(),
            "metric_tail": self._tail.as_facts(),
            "num_steps": self._num_steps,
            "consumed_samples": self._consumed_samples(),
            "best_checkpoints": self._best.as_facts(),
        }
        location = save_training_state(
            self._root,
            self._step,
            self._policy,
            self._optimization,
            facts,
            keep=self._spec.save_total_limit,
            protect=self._best.names,
        )
        self._tail.checkpointed()
        return location

    def _consumed_samples(self) -> dict[str, int]:
        """Samples trained in all, and how many of them in which epoch (from 0). The order is that of the seed."""
        num_samples = len(self._dataset.samples)
        epoch, position = divmod(self._step, self._dataset.num_steps_per_epoch(self._spec.batch_size))
        in_epoch = min(position * self._spec.batch_size, num_samples)
        return {"count": epoch * num_samples + in_epoch, "epoch": epoch, "in_epoch": in_epoch}
