"""Takes up an experiment whose first stages an earlier attempt has finished."""

from collections.abc import Collection, Iterable, Mapping

from service.contract.messages import StageResult
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from workers.actors.trainer_results import RlPlan, SftPlan
from workers.checkpoints import SkippedCheckpoint
from workers.stages.reuse import exported_checkpoint
from workers.stages.stage_context import StageContext

_ENGINE_ALONE: frozenset[StageName] = frozenset({"evaluate_base"})


class CheckpointMissing(Exception):
    """A stage is finished, but the checkpoint of its last step is gone or damaged."""


def pending_stages(spec: ExperimentSpec, completed: Collection[StageName]) -> list[StageName]:
    """The stages still to run, in order."""
    return [stage for stage in spec.stage_names() if stage not in completed]


def needs_trainer(pending: Collection[StageName]) -> bool:
    """Whether any of the stages asks the trainer."""
    return any(stage not in _ENGINE_ALONE for stage in pending)


def needs_engine(spec: ExperimentSpec, pending: Collection[StageName]) -> bool:
    """Whether any of the stages asks the rollout engine; SFT does where a set is sampled on the way."""
    samples_on_the_way = spec.evaluation is not None and bool(spec.evaluation.sft_steps)
    return any(stage != "sft" or samples_on_the_way for stage in pending)


def report_taken_up(context: StageContext, stage: StageName, plan: SftPlan | RlPlan) -> None:
    """Tell people where a stage goes on, and which checkpoints were passed over."""
    report_skipped(context, stage, plan.skipped_checkpoints)
    if plan.resumed_from is not None:
        step = plan.first_step - 1
        context.reports.event(
            "resumed",
            f"stage {stage} goes on after step {step} of {plan.num_steps}",
            {"stage": stage, "step": step, "checkpoint": plan.resumed_from},
        )


def report_skipped(context: StageContext, stage: StageName, skipped: Iterable[SkippedCheckpoint]) -> None:
    """Tell people of damaged checkpoints."""
    for checkpoint in skipped:
        context.reports.event(
            "checkpoint_skipped",
            f"stage {stage}: checkpoint {checkpoint.name} is not whole and was passed over: {checkpoint.reason}",
            {"stage": stage, "checkpoint": checkpoint.name, "reason": checkpoint.reason},
        )


def restore_policy(context: StageContext, completed: Mapping[StageName, StageResult]) -> None:
    """Give the trainer the weights with which the finished training stages ended.

    Of a reused SFT stage they are read from the experiment that has run it.

    They come from the last step's checkpoint, or the best one if SFT ends with that, and not from the exported model:
    that holds them in the model's dtype, the checkpoint in the trainer's own. Raises CheckpointMissing.
    """
    sft, rl = context.spec.sft, context.spec.rl
    if rl and "rl" in completed:
        context.trainer.wait_loaded()
        rl_plan = context.trainer.prepare_rl(rl, context.checkpoint_root("rl"))
        _require_last_step("rl", rl_plan, context)
        context.versions.trainer = rl_plan.policy_version
    elif sft and "sft" in completed and (source := context.reused.get("sft")):
        context.trainer.wait_loaded()
        context.trainer.take_weights(*exported_checkpoint(completed["sft"], source))
        context.versions.trainer = context.num_sft_versions
    elif sft and "sft" in completed:
        context.trainer.wait_loaded()
        _require_last_step("sft", context.trainer.prepare_sft(sft, context.checkpoint_root("sft")), context)
        report_skipped(context, "sft", context.trainer.end_sft().skipped_best_checkpoints)
        context.versions.trainer = context.num_sft_versions


def _require_last_step(stage: StageName, plan: SftPlan | RlPlan, context: StageContext) -> None:
    report_skipped(context, stage, plan.skipped_checkpoints)
    if plan.first_step <= plan.num_steps:
        raise CheckpointMissing(
            f"stage {stage} is finished, but the newest whole checkpoint in {context.checkpoint_root(stage)} is that "
            f"of step {plan.first_step - 1} of {plan.num_steps}; restore the folder or submit the experiment anew"
        )
