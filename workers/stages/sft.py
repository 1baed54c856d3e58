"""Supervised fine-tuning: the trainer works in slices of about a second, and the driver reports between them."""

from dataclasses import asdict, dataclass, field
from typing import Any

from service.contract.objectives import SedObjective
from service.contract.stages import SftSpec
from workers.actors.trainer_results import SftEnd, SftPlan, SftSlice, StepMetrics
from workers.stages.resume import report_skipped, report_taken_up
from workers.stages.stage_context import StageContext, StageOutcome
from workers.stages.step_sampling import StepSampling, sft_sampling
from workers.stages.stopping import stop_if_asked

_SLICE_S = 1.0
"""How long metrics, progress and a cancellation may wait for the trainer."""
_SLICE_STEPS = 1000


def run_sft(context: StageContext, spec: SftSpec) -> StageOutcome:
    """Train from the base model, or from the newest valid checkpoint, to the last step, and export the model."""
    context.reports.progress("sft", "loading the model", 0, 0)
    context.trainer.wait_loaded()
    context.reports.progress("sft", "preparing data", 0, 0)
    plan = context.trainer.prepare_sft(spec, context.checkpoint_root("sft"))
    report_taken_up(context, "sft", plan)
    _report_calibration(context, spec, plan)
    sampling = sft_sampling(context, num_steps=plan.num_steps)
    loop = _SftLoop(context=context, plan=plan, sampling=sampling, steps_done=plan.first_step - 1)
    loop.run()
    end = context.trainer.end_sft()
    report_skipped(context, "sft", end.skipped_best_checkpoints)
    context.versions.trainer = context.num_sft_versions
    context.reports.progress("sft", "exporting the model", loop.steps_done, plan.num_steps)
    return StageOutcome(
        steps_done=loop.steps_done,
        steps_planned=plan.num_steps,
        metrics=loop.metrics,
        checkpoint=context.trainer.export(context.model_folder("sft")),
        detail=_detail(plan, end, sampling),
    )


@dataclass(slots=True, kw_only=True)
class _SftLoop:
    context: StageContext
    plan: SftPlan
    sampling: StepSampling
    steps_done: int
    metrics: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Slice after slice until the trainer has no step left."""
        self.context.reports.progress("sft", "training", self.steps_done, self.plan.num_steps)
        # A driver that dies takes unsent reports along; its successor begins behind the checkpoint's steps.
        self._report_metrics(self.plan.carried_metrics)
        self.sampling.take_up(self.steps_done)
        with self.context.give_way.postponed():
            self._stop_if_asked()
            while self._take(self._next_slice()):
                self.sampling.reached(self.steps_done)
                self.context.reports.progress("sft", "training", self.steps_done, self.plan.num_steps)
                # The engine starts meanwhile; if it cannot, hours of training should not pass before anybody hears it.
                self.context.engine.check_start()
                self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        trainer = self.context.trainer
        stop_if_asked(self.context, "sft", self.steps_done, self.plan.num_steps, trainer.save_sft)

    def _next_slice(self) -> SftSlice:
        ahead = self.sampling.num_steps_until_next(self.steps_done)
        max_steps = _SLICE_STEPS if ahead is None else min(_SLICE_STEPS, ahead)
        return self.context.trainer.sft_steps(max_steps=max_steps, max_seconds=_SLICE_S)

    def _take(self, done: SftSlice) -> bool:
        """Report a slice; says whether it had a step."""
        self._report_metrics((*done.steps, *done.evaluations))
        self.context.reports.token_views(done.token_views)
        if done.steps:
            self.steps_done = done.steps[-1].step
        return bool(done.steps)

    def _report_metrics(self, found: tuple[StepMetrics, ...]) -> None:
        for metrics in found:
            self.context.reports.points(metrics.step, metrics.values)
            self.metrics |= metrics.values


def _report_calibration(context: StageContext, spec: SftSpec, plan: SftPlan) -> None:
    """Tell people what tau is and what it was taken from, once: a resumed run has it from its checkpoint."""
    if plan.tau_histogram is not None and plan.resumed_from is None:
        assert isinstance(spec.objective, SedObjective), "no other objective has a threshold"
        asked = {"top_k": spec.objective.top_k, "mask_ratio": spec.objective.mask_ratio}
        found = {"tau": plan.tau, "num_tokens": plan.tau_num_tokens, **asdict(plan.tau_histogram)}
        context.reports.event(
            "tau_calibrated",
            f"tau is {plan.tau:.4f}, calibrated on {plan.tau_num_tokens} tokens",
            asked | found,
        )


def _detail(plan: SftPlan, end: SftEnd, sampling: StepSampling) -> dict[str, Any]:
    shown = asdict(plan) | asdict(end)
    del shown["num_steps"], shown["carried_metrics"]
    return shown | {"sampled": sampling.as_detail()}
