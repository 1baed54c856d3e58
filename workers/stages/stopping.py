"""Stopping a training stage between two steps, so that going on later gives what not stopping would have given."""

import logging
from collections.abc import Callable

from service.contract.messages import PREEMPTION_ACKNOWLEDGED
from service.contract.stages import StageName
from workers.checkpoints import DamagedCheckpoint
from workers.reporter.give_way import Preempted
from workers.stages.stage_context import StageContext

logger = logging.getLogger(__name__)

_SETTLE_S = 2.0
"""What the checkpoint waits for its steps' metrics to arrive; milliseconds while the service answers."""


def stop_if_asked(context: StageContext, stage: StageName, step: int, num_steps: int, save: Callable[[], str]) -> None:
    """Raise Preempted after `step` if the service wants the run to give way; its checkpoint is written and verified.

    `save` writes the checkpoint after this step and returns its place. After the last step there is nothing to stop:
    the stage ends by itself, and the run stops before the next one.
    """
    if not context.give_way.asked or step >= num_steps:
        return
    where = {"stage": stage, "step": step}
    context.reports.event(PREEMPTION_ACKNOWLEDGED, f"stops after step {step} of {num_steps} of stage {stage}", where)
    if step > 0:
        context.reports.progress(stage, "saving a checkpoint", step, num_steps)
        # A successor begins behind the checkpoint's steps: what they measured has to be told before.
        context.reports.settle(_SETTLE_S)
        _verify(context, stage, save())
    raise Preempted(f"gave way to another experiment after step {step} of {num_steps} of stage {stage}")


def _verify(context: StageContext, stage: StageName, location: str) -> None:
    """A damaged one is passed over when the run goes on, so stopping is right all the same; people should know."""
    try:
        context.verify_checkpoint(location)
    except DamagedCheckpoint as error:
        logger.warning("checkpoint damaged", extra={"location": location, "error": str(error)})
        detail = {"stage": stage, "checkpoint": location, "reason": str(error)}
        context.reports.event("checkpoint_damaged", f"stage {stage}: the checkpoint just written is not whole", detail)
