"""Supervised fine-tuning: the trainer works in slices of about a second, and the driver reports between them."""

from dataclasses import asdict
from typing import Any

from service.contract.stages import SftSpec
from workers.actors.trainer_results import SftPlan
from workers.stages.stage_context import StageContext, StageOutcome

_SLICE_S = 1.0
"""How long metrics, progress and a cancellation may wait for the trainer."""
_SLICE_STEPS = 1000


def run_sft(context: StageContext, spec: SftSpec) -> StageOutcome:
    """Train from the base model, or from the newest valid checkpoint, to the last step, and export the model."""
    context.reports.progress("sft", "loading the model", 0, 0)
    context.trainer.wait_loaded()
    context.reports.progress("sft", "preparing data", 0, 0)
    plan = context.trainer.prepare_sft(spec, context.checkpoint_root("sft"))
    steps_done, metrics = _train(context, plan)
    context.versions.trainer = context.num_sft_versions
    context.reports.progress("sft", "exporting the model", steps_done, plan.num_steps)
    return StageOutcome(
        steps_done=steps_done,
        steps_planned=plan.num_steps,
        metrics=metrics,
        checkpoint=context.trainer.export(context.model_folder("sft")),
        detail=_detail(plan),
    )


def _train(context: StageContext, plan: SftPlan) -> tuple[int, dict[str, float]]:
    steps_done, metrics = plan.first_step - 1, dict[str, float]()
    context.reports.progress("sft", "training", steps_done, plan.num_steps)
    # A driver that dies takes unsent reports along; its successor begins behind the checkpoint's steps.
    for step in plan.carried_metrics:
        context.reports.points(step.step, step.values)
        metrics |= step.values
    while steps := context.trainer.sft_steps(max_steps=_SLICE_STEPS, max_seconds=_SLICE_S):
        for step in steps:
            context.reports.points(step.step, step.values)
            metrics |= step.values
        steps_done = steps[-1].step
        context.reports.progress("sft", "training", steps_done, plan.num_steps)
        # The engine starts meanwhile; if it cannot, hours of training should not pass before anybody hears of it.
        context.engine.check_start()
    return steps_done, metrics


def _detail(plan: SftPlan) -> dict[str, Any]:
    shown = asdict(plan)
    del shown["num_steps"], shown["carried_metrics"]
    return shown
