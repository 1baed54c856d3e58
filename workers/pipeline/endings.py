"""Which end an exception means, and what a person gets to see of it."""

from ray.exceptions import RayError

from service.contract.stages import StageName
from service.contract.status import EndReason
from workers.actors.trainer_results import NonFinite
from workers.actors.vllm_adapter import EngineFailed
from workers.config_error import ConfigError
from workers.pipeline.stall_watchdog import Stalled
from workers.placement import ActorDied, DeadlineExceeded, NoPlacement, Role
from workers.reporter.attempt_service import ServiceRefused
from workers.reporter.give_way import Preempted
from workers.reporter.reporter import Cancelled
from workers.stages.engine_roster import EnginesLost
from workers.stages.gate import GateClosed
from workers.weight_sync import WeightSyncFailed


class Incomplete(Exception):
    """A stage ended with fewer or more steps than planned."""

    def __init__(self, stage: StageName, steps_done: int, steps_planned: int) -> None:
        super().__init__(
            f"stage {stage} ended after {steps_done} of {steps_planned} steps, so its result does not count"
        )


class ClusterLost(Exception):
    """The driver cannot reach the Ray cluster that runs it."""


_REASONS: tuple[tuple[type[Exception], EndReason], ...] = (
    (Cancelled, EndReason.CANCELLED_BY_USER),
    (Preempted, EndReason.PREEMPTED),
    (ConfigError, EndReason.CONFIG_ERROR),
    (ServiceRefused, EndReason.CONFIG_ERROR),
    (GateClosed, EndReason.GATE_CLOSED),
    (NonFinite, EndReason.NON_FINITE),
    (Incomplete, EndReason.INCOMPLETE),
    (EngineFailed, EndReason.ENGINE_FAILED),
    (Stalled, EndReason.NO_PROGRESS),
    (WeightSyncFailed, EndReason.WEIGHT_SYNC_FAILED),
    (ClusterLost, EndReason.RAY_JOB_FAILED),
    (RayError, EndReason.RAY_JOB_FAILED),
)


def reason_of(error: BaseException) -> EndReason:
    """The reason that the service stores; everything unknown is a failure of the stage."""
    match error:
        case ActorDied():
            return EndReason.OUT_OF_MEMORY if error.out_of_memory else EndReason.ACTOR_DIED
        case EnginesLost():
            return EndReason.OUT_OF_MEMORY if error.out_of_memory else EndReason.ENGINE_FAILED
        case NoPlacement():
            return EndReason.NO_CAPACITY
        case DeadlineExceeded():
            return EndReason.ENGINE_FAILED if error.role is Role.ROLLOUT else EndReason.ACTOR_DIED
    # torch has an error of this name for the GPU, the interpreter one for the host.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return EndReason.OUT_OF_MEMORY
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), EndReason.STAGE_FAILED)
