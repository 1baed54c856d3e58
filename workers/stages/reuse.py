"""Stages that another experiment of the project has run: taken over if this code would have made the same of them."""

import logging
from collections.abc import Mapping, Sequence

from service.contract.messages import REUSE_DECLINED, ReusedStage, StageResult
from service.contract.stages import StageName
from workers.checkpoints import DamagedCheckpoint, checkpoint_name
from workers.stages.stage_context import StageContext

logger = logging.getLogger(__name__)


def usable_results(
    context: StageContext, completed: Sequence[StageResult], reused: Mapping[StageName, ReusedStage]
) -> list[StageResult]:
    """The finished stages without those that cannot be taken over: they are run here, and people are told why.

    All reused ones stand or fall together, since later stages were made with what the earlier ones left.
    """
    taken = [result for result in completed if result.stage in reused]
    why = next((reason for result in taken if (reason := _why_not(context, result, reused[result.stage]))), None)
    if why is None:
        return list(completed)
    names = [result.stage for result in taken]
    logger.warning("stages not reused", extra={"stages": names, "why": why})
    context.reports.event(REUSE_DECLINED, f"{', '.join(names)} run here, not reused: {why}", {"stages": [*names]})
    return [result for result in completed if result.stage not in reused]


def exported_checkpoint(result: StageResult, source: ReusedStage) -> tuple[str, int]:
    """Where the checkpoints of a reused SFT stage lie, and the step with whose weights it ended."""
    return f"{source.output_dir.rstrip('/')}/checkpoints/sft", int(result.detail["exported_step"])


def _why_not(context: StageContext, result: StageResult, source: ReusedStage) -> str | None:
    made_by = result.detail.get("code")
    if made_by != context.code:
        differing = sorted(
            name for name in {*(made_by or {}), *context.code} if (made_by or {}).get(name) != context.code.get(name)
        )
        return f"{source.experiment_id} ran it with other code ({', '.join(differing)})"
    if result.stage != "sft":
        return None
    root, step = exported_checkpoint(result, source)
    try:
        context.verify_checkpoint(f"{root}/{checkpoint_name(step)}")
    except DamagedCheckpoint as error:
        return f"the checkpoint of {source.experiment_id} is not whole: {error}"
    return None
