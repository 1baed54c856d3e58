"""The life of an experiment and of its attempts: states, allowed moves, and the reason of every end.

Experiment                                         Attempt (one Ray job each)

    queued ──> admitted ──> running ──> succeeded      launching ──> submitted ──> running ──┐
      ^  │        │ │          │ │ │                       │             │            │      v
      │  │        │ └──────────┼─┼─┴──> failed             └─────────────┴────────────┴──> ended
      │  │        v            v │
      │  │      cancelling <───┘ │                     `ended` says that nobody may write any more; the resources
      │  └────────┴──> cancelled │                     count as taken until Ray is seen to have freed them
      └──────────────────────────┘ retry               (`released_at`).
"""

from enum import StrEnum


class ExperimentStatus(StrEnum):
    """Where an experiment stands."""

    QUEUED = "queued"
    ADMITTED = "admitted"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow but a retry asked for by a person."""
        return self in (ExperimentStatus.SUCCEEDED, ExperimentStatus.FAILED, ExperimentStatus.CANCELLED)


class AttemptStatus(StrEnum):
    """Where one attempt stands."""

    LAUNCHING = "launching"
    """The row is written; Ray may or may not have the job."""
    SUBMITTED = "submitted"
    """Ray has the job."""
    RUNNING = "running"
    """The driver has called `start`."""
    ENDED = "ended"


_E = ExperimentStatus
EXPERIMENT_MOVES: dict[ExperimentStatus, frozenset[ExperimentStatus]] = {
    _E.QUEUED: frozenset({_E.ADMITTED, _E.CANCELLED}),
    _E.ADMITTED: frozenset({_E.RUNNING, _E.QUEUED, _E.CANCELLING, _E.FAILED, _E.SUCCEEDED}),
    _E.RUNNING: frozenset({_E.QUEUED, _E.CANCELLING, _E.FAILED, _E.SUCCEEDED}),
    # A run that did all its work before it heard the wish has succeeded; that is the truth.
    _E.CANCELLING: frozenset({_E.CANCELLED, _E.SUCCEEDED}),
    _E.SUCCEEDED: frozenset(),
    _E.FAILED: frozenset({_E.QUEUED}),
    _E.CANCELLED: frozenset({_E.QUEUED}),
}
"""From each status to those that may follow. FAILED/CANCELLED -> QUEUED is a retry asked for by a person."""

_A = AttemptStatus
ATTEMPT_MOVES: dict[AttemptStatus, frozenset[AttemptStatus]] = {
    # A driver can call `start` before the scheduler has noted that the submit succeeded.
    _A.LAUNCHING: frozenset({_A.SUBMITTED, _A.RUNNING, _A.ENDED}),
    _A.SUBMITTED: frozenset({_A.RUNNING, _A.ENDED}),
    _A.RUNNING: frozenset({_A.ENDED}),
    _A.ENDED: frozenset(),
}


class EndReason(StrEnum):
    """Why an attempt, and perhaps its experiment, ended. The reason decides the status; they cannot disagree."""

    COMPLETED = "completed"
    CANCELLED_BY_USER = "cancelled_by_user"
    CONFIG_ERROR = "config_error"
    """The model, the data or a setting cannot work; trying again changes nothing."""
    STAGE_FAILED = "stage_failed"
    """An exception in our own or the user's code while a stage ran."""
    NON_FINITE = "non_finite"
    """A loss or gradient became NaN or infinite."""
    INCOMPLETE = "incomplete"
    """The driver said that it was done, but did fewer steps than planned."""
    GATE_CLOSED = "gate_closed"
    """A probe before reinforcement learning showed that it would learn nothing."""
    OUT_OF_MEMORY = "out_of_memory"
    MAX_RUNTIME_EXCEEDED = "max_runtime_exceeded"
    START_TIMEOUT = "start_timeout"
    """Ray had the job, but its driver did not report in time."""
    ACTOR_DIED = "actor_died"
    """A trainer or rollout actor was lost."""
    ENGINE_FAILED = "engine_failed"
    """vLLM did not start or stopped answering."""
    WEIGHT_SYNC_FAILED = "weight_sync_failed"
    SUBMIT_FAILED = "submit_failed"
    RAY_JOB_FAILED = "ray_job_failed"
    """Ray says that the driver ended without a finish report."""
    RAY_JOB_LOST = "ray_job_lost"
    """Ray no longer knows the job: its cluster was restarted or the job deleted."""
    HEARTBEAT_LOST = "heartbeat_lost"
    PREEMPTED = "preempted"
    """Asked to give way to another experiment; goes on later from its checkpoint, and keeps its place in the queue."""
    DEPENDENCY_FAILED = "dependency_failed"
    """An experiment that had to succeed first did not, and this one was to be cancelled then."""
    STUDY_STOPPED = "study_stopped"
    """Its study has reached its budget, or knows what it wanted to know; this one had not started."""
    NO_PROGRESS = "no_progress"
    """The driver reports, but its steps stand still."""
    NO_CAPACITY = "no_capacity"
    """Ray had no place for the actors, although the service's own ledger said that it had."""
    SENTINEL = "sentinel"
    """A limit that the specification sets on its metrics was passed."""

    @property
    def ends_attempts(self) -> bool:
        """Whether an attempt can end with it; the others end experiments that never started."""
        return self not in (EndReason.DEPENDENCY_FAILED, EndReason.STUDY_STOPPED)

    def to_status(self) -> ExperimentStatus:
        """The experiment's status when no further attempt follows."""
        match self:
            case EndReason.COMPLETED:
                return ExperimentStatus.SUCCEEDED
            case EndReason.CANCELLED_BY_USER | EndReason.DEPENDENCY_FAILED | EndReason.STUDY_STOPPED:
                return ExperimentStatus.CANCELLED
            case _:
                return ExperimentStatus.FAILED
