"""What follows from what is known of one attempt: a pure decision, made anew in every pass.

    Ray does not answer        nothing is concluded; a cancelled attempt that Ray may not even have ends all the same
    ended, Ray job alive       ask Ray to stop it
    ended, Ray job over/gone   sweep what a hard end may have left, then release its resources
    live, Ray job gone         lost, when seen twice and old enough not to be on its way
    "running", nobody watches  poke Ray, whose word is old; lost, when it still says so and the driver is silent
    live, Ray job over         failed, cancelled or incomplete: the driver should have reported its end, and did not
    live, Ray job alive        silent, not started, standing still or beyond its time for too long: ended, then stopped;
                               so is one that was asked to give way and does not

The driver's own report is the truth: an attempt that it ended is never judged again. An attempt that must be stopped
is ended *first*: from then on its driver is refused whatever it writes, dead or not, and its resources still count as
taken until Ray is seen to hold them no more.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from service.contract.status import AttemptStatus, EndReason
from service.scheduler.ray_jobs import RayJob, RayJobStatus

_POKE_AT, _GONE_AT = 2, 4
"""Looks in a row at a job that nobody watches over, until Ray is poked, and until its word counts no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """An unreleased attempt as the database has it."""

    status: AttemptStatus
    cancel_requested_at: datetime | None
    """Set while a person wants the experiment to stop."""
    max_runtime_s: float
    no_progress_timeout_s: float | None
    ray_session: str | None
    created_at: datetime
    submitted_at: datetime | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    progress_at: datetime | None
    """When it was last seen to move."""
    stop_requested_at: datetime | None
    ended_at: datetime | None
    preempt_requested_at: datetime | None = None
    """When it was asked to give way."""
    to_sweep: bool = False
    """It ended hard, and nobody has looked yet for what that left on the nodes."""

    @property
    def since(self) -> datetime:
        """From when the attempt's time counts. A driver may have started before its submission was noted."""
        return self.submitted_at or self.created_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """Ray did not answer."""

    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """Ray answered, and knows no such job."""

    times_seen: int
    """Observations in a row."""
    session_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """Ray knows the job."""

    job: RayJob
    since: datetime
    """First observation of this status."""
    times_unwatched: int = 0
    """Observations in a row in which Ray called it running, but its supervisor or its driver's node was gone."""
    supervisor_waits: bool = False
    """The actor that is to start its driver has no place yet."""


Observation = Unreachable | Absent | Present


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Deadlines in seconds."""

    start_deadline_s: float
    heartbeat_lease_s: float
    cancel_grace_s: float
    stop_wait_s: float
    preempt_grace_s: float = 900.0
    """Time for a driver to reach a checkpoint, when it was asked to give way."""
    submit_grace_s: float
    """A request to submit may still be on its way for so long."""
    finish_grace_s: float = 10.0
    """Ray may see a driver exit before the service has handled its last report."""
    fresh_s: float = 15.0
    """A driver that was heard so lately is at work, whatever Ray says of it."""
    fence_grace_s: float = 10.0
    """Time for a driver of which Ray lost sight to hear that it is over, and to let go of its resources."""
    sweep_patience_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do now."""

    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskToStop:
    """Ray shall stop the job."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The attempt is over."""

    reason: EndReason
    message: str
    stop: bool = False
    """Ray shall stop the job as well."""
    stands_still: bool = False
    """Its processes may be alive and hang: what they are doing is worth a look before they are stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poke:
    """Ray's word is older than what is known otherwise: it shall look again."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Its job is over; processes, actors and placement groups of it may not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Ray holds nothing of it any more."""


Verdict = Wait | AskToStop | End | Poke | Sweep | Release


def judge(
    facts: AttemptFacts, seen: Observation, now: datetime, limits: Limits, api_up_since: datetime | None
) -> Verdict:
    """The verdict on one attempt.

    `api_up_since` is the start of the time in which drivers could reach the service; None while they cannot. Only
    silence within that time counts against a driver.
    """
    if facts.status is AttemptStatus.LAUNCHING and facts.cancel_requested_at is not None:
        # Needs no answer from Ray: should the job be on its way after all, its driver is refused, and stopped.
        return End(reason=EndReason.CANCELLED_BY_USER, message="cancelled before Ray had the job")
    if facts.status is AttemptStatus.LAUNCHING and facts.preempt_requested_at is not None:
        return End(reason=EndReason.PREEMPTED, message="gave way before Ray had the job")
    if isinstance(seen, Unreachable):
        return Wait(note=f"Ray has not answered for {_seconds(seen.since, now):.0f} s; nothing is concluded")
    if facts.status is AttemptStatus.ENDED:
        return _judge_ended(facts, seen, now, limits)
    if facts.status is AttemptStatus.LAUNCHING:
        return Wait(note="being submitted")
    if isinstance(seen, Absent):
        return _judge_absent(facts, seen, now, limits)
    match seen.job.status:
        case RayJobStatus.SUCCEEDED | RayJobStatus.FAILED | RayJobStatus.STOPPED:
            return _judge_over(facts, seen, now, limits)
        case RayJobStatus.PENDING | RayJobStatus.RUNNING:
            return _judge_alive(facts, seen, now, limits, api_up_since)
        case _:
            assert_never(seen.job.status)


def _judge_ended(facts: AttemptFacts, seen: Absent | Present, now: datetime, limits: Limits) -> Verdict:
    assert facts.ended_at is not None, "an ended attempt has its time"
    fenced = _seconds(facts.ended_at, now) >= limits.fence_grace_s
    if isinstance(seen, Absent):
        on_its_way = _seconds(facts.since, now) < limits.submit_grace_s
        gone = seen.times_seen >= 2 and fenced and not on_its_way
        return _let_go(facts, now, limits) if gone else Wait(note="Ray has no such job; making sure")
    if seen.job.status.is_terminal:
        return (
            _let_go(facts, now, limits)
            if fenced or not _lost_sight(seen.job)
            else Wait(note="its driver may still be alive")
        )
    if seen.times_unwatched >= _POKE_AT:
        gone = seen.times_unwatched >= _GONE_AT and fenced
        return _let_go(facts, now, limits) if gone else Poke(why="nobody watches over the job of an ended attempt")
    asked = facts.stop_requested_at is not None
    if seen.job.status is RayJobStatus.PENDING and asked and fenced:
        # Ray cannot stop what has not begun. If it begins after all, its driver is refused before it takes anything.
        return _let_go(facts, now, limits)
    if fenced or asked:
        return _stop_again(facts, now, limits, "the attempt is over")
    return Wait(note="its driver is cleaning up")


def _let_go(facts: AttemptFacts, now: datetime, limits: Limits) -> Verdict:
    """Resources are free when they are seen free: after a hard end that takes a look at the nodes.

    A cluster that takes no sweep job for long has other troubles; what waits behind this attempt need not share them.
    """
    assert facts.ended_at is not None, "an ended attempt has its time"
    overdue = _seconds(facts.ended_at, now) > limits.sweep_patience_s
    return Sweep() if facts.to_sweep and not overdue else Release()


def _judge_absent(facts: AttemptFacts, seen: Absent, now: datetime, limits: Limits) -> Verdict:
    if seen.times_seen < 2 or _seconds(facts.since, now) < limits.submit_grace_s:
        return Wait(note="Ray does not know the job; making sure")
    if facts.ray_session is not None and facts.ray_session != seen.session_name:
        return End(reason=EndReason.RAY_JOB_LOST, message="Ray was started anew and its jobs are gone")
    return End(reason=EndReason.RAY_JOB_LOST, message="Ray does not know the job any more: somebody deleted it")


def _judge_over(facts: AttemptFacts, seen: Present, now: datetime, limits: Limits) -> Verdict:
    job = seen.job
    if job.status is RayJobStatus.SUCCEEDED:
        if _seconds(seen.since, now) < limits.finish_grace_s:
            return Wait(note="the driver has exited; waiting for its report")
        return End(reason=EndReason.INCOMPLETE, message="the driver exited without an error and without its report")
    if facts.cancel_requested_at is not None and job.status is RayJobStatus.STOPPED:
        return End(reason=EndReason.CANCELLED_BY_USER, message="stopped because a person cancelled it")
    if job.status is RayJobStatus.STOPPED:
        return End(reason=EndReason.RAY_JOB_FAILED, message="somebody else stopped the Ray job")
    code = "" if job.driver_exit_code is None else f" (exit code {job.driver_exit_code})"
    return End(reason=EndReason.RAY_JOB_FAILED, message=f"the driver ended without its report{code}: {_first(job)}")


def _judge_alive(
    facts: AttemptFacts, seen: Present, now: datetime, limits: Limits, api_up_since: datetime | None
) -> Verdict:
    job = seen.job
    if facts.cancel_requested_at is not None:
        return _judge_cancelled(facts, facts.cancel_requested_at, job, now, limits)
    if _seconds(facts.since, now) > facts.max_runtime_s:
        message = f"the attempt took longer than max_runtime_s = {facts.max_runtime_s:g}; raise it or plan fewer steps"
        return End(reason=EndReason.MAX_RUNTIME_EXCEEDED, message=message, stop=True)
    if facts.preempt_requested_at is not None and _seconds(facts.preempt_requested_at, now) > limits.preempt_grace_s:
        message = (
            f"the driver did not stop at a checkpoint within {limits.preempt_grace_s:g} s of being asked to give way; "
            "it goes on later from its last one"
        )
        return End(reason=EndReason.PREEMPTED, message=message, stop=True)
    heard_at = facts.heartbeat_at or facts.started_at
    if seen.times_unwatched >= _POKE_AT:
        return _judge_unwatched(heard_at or facts.since, seen, now, limits, api_up_since)
    if facts.started_at is None and _silence(facts.since, now, api_up_since) > limits.start_deadline_s:
        message = f"Ray says {job.status.value}, but the driver has not reported within {limits.start_deadline_s:g} s"
        if seen.supervisor_waits:
            message += "; Ray has not even found a place for its supervisor: it is fuller than our ledger says"
        return End(reason=EndReason.START_TIMEOUT, message=message, stop=True, stands_still=True)
    if heard_at is not None and _silence(heard_at, now, api_up_since) > limits.heartbeat_lease_s:
        message = (
            f"nothing was heard of the driver for more than {limits.heartbeat_lease_s:g} s; it hangs or is cut off"
        )
        return End(reason=EndReason.HEARTBEAT_LOST, message=message, stop=True, stands_still=True)
    return _judge_progress(facts, now, api_up_since)


def _judge_unwatched(
    heard_at: datetime, seen: Present, now: datetime, limits: Limits, api_up_since: datetime | None
) -> Verdict:
    """Ray says RUNNING of a job whose supervisor or node is gone: after a restart it says so for ever, until poked."""
    silent_s = _silence(heard_at, now, api_up_since)
    if seen.times_unwatched >= _GONE_AT and silent_s > limits.fresh_s:
        message = "Ray calls it running, but the actor that watches its driver is gone, and the driver is silent"
        return End(reason=EndReason.RAY_JOB_LOST, message=message, stop=True)
    return Poke(why="Ray calls a job running that nobody watches over")


def _judge_progress(facts: AttemptFacts, now: datetime, api_up_since: datetime | None) -> Verdict:
    """A driver may report punctually while its steps stand still."""
    moved_at, patience_s = facts.progress_at or facts.started_at, facts.no_progress_timeout_s
    if moved_at is None or patience_s is None or _silence(moved_at, now, api_up_since) <= patience_s:
        return Wait()
    message = f"the driver reports, but no step and no phase has changed for no_progress_timeout_s = {patience_s:g}"
    return End(reason=EndReason.NO_PROGRESS, message=message, stop=True, stands_still=True)


def _judge_cancelled(
    facts: AttemptFacts, requested_at: datetime, job: RayJob, now: datetime, limits: Limits
) -> Verdict:
    if _seconds(requested_at, now) < limits.cancel_grace_s:
        return Wait(note="the driver may stop by itself")
    if job.status is RayJobStatus.PENDING:
        return End(reason=EndReason.CANCELLED_BY_USER, message="cancelled before its driver began", stop=True)
    patience_s = 2 * limits.stop_wait_s
    if facts.stop_requested_at is not None and _seconds(facts.stop_requested_at, now) > patience_s:
        # Ray has not stopped it within its own deadline. The person need not wait for that; its resources do.
        return End(reason=EndReason.CANCELLED_BY_USER, message="cancelled; Ray is slow to stop it", stop=True)
    if facts.stop_requested_at is not None:
        return Wait(note="Ray is stopping it")
    return AskToStop(why="a person cancelled it")


def _stop_again(facts: AttemptFacts, now: datetime, limits: Limits, why: str) -> Verdict:
    """Ray is asked once, and again whenever it should long have obeyed."""
    if facts.stop_requested_at is None or _seconds(facts.stop_requested_at, now) > 2 * limits.stop_wait_s:
        return AskToStop(why=why)
    return Wait(note="Ray is stopping it")


def _lost_sight(job: RayJob) -> bool:
    """Whether Ray's failure is its own: the driver of such a job has been seen to live on."""
    return (job.error_type or "").startswith("JOB_SUPERVISOR")


def _silence(heard_at: datetime, now: datetime, api_up_since: datetime | None) -> float:
    """Seconds without a word in which there was somebody to hear it."""
    return 0.0 if api_up_since is None else _seconds(max(heard_at, api_up_since), now)


def _seconds(start: datetime, end: datetime) -> float:
    return max((end - start) / timedelta(seconds=1), 0.0)


def _first(job: RayJob) -> str:
    """The first line of Ray's message; the rest is evidence."""
    return (job.message.strip().splitlines() or ["Ray gives no reason"])[0][:300]
