"""A trainer that is lost within a stage is replaced within the attempt, as long as its place in the cluster is there.

    stage runs ──> a rank dies or hangs ──> all ranks are ended ──> bundles where they were?
                                                                      │ yes          │ no, or too often
                                                                      v              v
        stage begins again at its newest checkpoint <── new ranks load     the attempt ends, retryable

The rollout engines stay: they get the checkpoint's weights before they make another rollout. Steps behind the
checkpoint are trained again; the service keeps what it was told of them first. A rank that ran out of memory is not
replaced: it would again.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.contract.messages import StageResult
from service.contract.stages import StageName
from workers.placement import ActorDied, DeadlineExceeded, Role
from workers.stages.resume import restore_policy
from workers.stages.stage_context import StageContext, StageOutcome

logger = logging.getLogger(__name__)

MOST_RESTARTS = 3
"""In one attempt. What fails more often has a cause that no new process removes."""


@dataclass(slots=True, kw_only=True)
class TrainerRestarts:
    """Runs stages, and replaces the trainer where one is lost."""

    context: StageContext
    num_restarts: int = 0

    def run(
        self, stage: StageName, completed: Mapping[StageName, StageResult], run_stage: Callable[[], StageOutcome]
    ) -> StageOutcome:
        """The stage's outcome. Raises what the stage raises, if the trainer's loss is not the cause or is final."""
        while True:
            try:
                return run_stage()
            except (ActorDied, DeadlineExceeded) as loss:
                self._replace(stage, completed, loss)

    def _replace(
        self, stage: StageName, completed: Mapping[StageName, StageResult], loss: ActorDied | DeadlineExceeded
    ) -> None:
        began, trainer = time.monotonic(), self.context.trainer
        out_of_memory = isinstance(loss, ActorDied) and loss.out_of_memory
        if loss.role is not Role.TRAINER or out_of_memory or self.num_restarts >= MOST_RESTARTS:
            raise loss
        logger.warning("trainer lost", extra={"stage": stage, "cause": str(loss)})
        if not trainer.restart():
            raise loss
        self.num_restarts += 1
        self.context.reports.progress(stage, "replacing the trainer", 0, 0)
        trainer.wait_loaded()
        self.context.sync_weights.trainer_replaced()
        restore_policy(self.context, completed)
        self._report(stage, loss, time.monotonic() - began)

    def _report(self, stage: StageName, loss: Exception, seconds: float) -> None:
        self.context.reports.event(
            "trainer_restarted",
            f"the trainer was lost in stage {stage} and replaced, {seconds:.0f} s; the stage goes on from its newest "
            f"checkpoint: {loss}",
            {
                "stage": stage,
                "cause": str(loss)[:2000],
                "seconds": round(seconds, 3),
                "restarts_left": MOST_RESTARTS - self.num_restarts,
            },
        )
