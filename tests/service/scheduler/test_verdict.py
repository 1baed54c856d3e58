"""The verdict on an attempt, case by case and for any case."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.status import AttemptStatus, EndReason
from service.scheduler.ray_jobs import RayJob, RayJobStatus
from service.scheduler.verdict import (
    Absent,
    AskToStop,
    AttemptFacts,
    End,
    Limits,
    Observation,
    Poke,
    Present,
    Release,
    Sweep,
    Unreachable,
    Verdict,
    Wait,
    judge,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIMITS = Limits(start_deadline_s=180, heartbeat_lease_s=90, cancel_grace_s=8, stop_wait_s=10, submit_grace_s=45)
LONG_UP = NOW - timedelta(days=1)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def running(**changes: Any) -> AttemptFacts:
    facts = AttemptFacts(
        status=AttemptStatus.RUNNING,
        cancel_requested_at=None,
        max_runtime_s=3600,
        no_progress_timeout_s=None,
        ray_session="session_1",
        created_at=ago(601),
        submitted_at=ago(600),
        started_at=ago(590),
        heartbeat_at=ago(2),
        progress_at=None,
        stop_requested_at=None,
        ended_at=None,
    )
    return replace(facts, **changes)


def ended(seconds_ago: float = 60, **changes: Any) -> AttemptFacts:
    return running(status=AttemptStatus.ENDED, ended_at=ago(seconds_ago), **changes)


def job(status: RayJobStatus, *, since: float = 60, **facts: Any) -> Present:
    plain: dict[str, Any] = {"message": "", "error_type": None, "driver_exit_code": None, "driver_node_id": "n1"}
    found = RayJob(submission_id="s", status=status, metadata={}, **{**plain, **facts})
    return Present(job=found, since=ago(since))


def unwatched(times: int) -> Present:
    return replace(job(RayJobStatus.RUNNING), times_unwatched=times)


def absent(times_seen: int = 2, session_name: str = "session_1") -> Absent:
    return Absent(times_seen=times_seen, session_name=session_name)


def verdict(facts: AttemptFacts, seen: Observation, api_up_since: datetime | None = LONG_UP) -> Verdict:
    return judge(facts, seen, NOW, LIMITS, api_up_since)


def reason(outcome: Verdict) -> EndReason | None:
    return outcome.reason if isinstance(outcome, End) else None


R = RayJobStatus
SUBMITTED: dict[str, Any] = {"status": AttemptStatus.SUBMITTED, "started_at": None, "heartbeat_at": None}
LOST = "JOB_SUPERVISOR_ACTOR_DIED"


@pytest.mark.parametrize(
    ("facts", "seen", "expected"),
    [
        pytest.param(running(), job(R.RUNNING), None, id="a healthy run goes on"),
        pytest.param(running(), absent(1), None, id="absence seen once proves nothing"),
        pytest.param(running(), absent(2), EndReason.RAY_JOB_LOST, id="absence seen twice does"),
        pytest.param(running(), absent(2, "session_2"), EndReason.RAY_JOB_LOST, id="Ray was started anew"),
        pytest.param(
            running(**SUBMITTED, created_at=ago(21), submitted_at=ago(20)), absent(9), None, id="may be on its way"
        ),
        pytest.param(running(), job(R.FAILED), EndReason.RAY_JOB_FAILED, id="failed without a report"),
        pytest.param(running(), job(R.STOPPED), EndReason.RAY_JOB_FAILED, id="stopped by somebody else"),
        pytest.param(
            running(cancel_requested_at=ago(9)),
            job(R.STOPPED),
            EndReason.CANCELLED_BY_USER,
            id="stopped when cancelled",
        ),
        pytest.param(running(), job(R.SUCCEEDED, since=3), None, id="its report may still arrive"),
        pytest.param(running(), job(R.SUCCEEDED, since=30), EndReason.INCOMPLETE, id="succeeded without a report"),
        pytest.param(running(heartbeat_at=ago(80)), job(R.RUNNING), None, id="silent, but not for long"),
        pytest.param(running(heartbeat_at=ago(100)), job(R.RUNNING), EndReason.HEARTBEAT_LOST, id="silent too long"),
        pytest.param(running(**SUBMITTED, submitted_at=ago(170)), job(R.PENDING), None, id="may still start"),
        pytest.param(
            running(**SUBMITTED, submitted_at=ago(190)), job(R.PENDING), EndReason.START_TIMEOUT, id="did not start"
        ),
        pytest.param(
            running(max_runtime_s=500), job(R.RUNNING), EndReason.MAX_RUNTIME_EXCEEDED, id="took longer than it may"
        ),
        pytest.param(
            running(no_progress_timeout_s=300, progress_at=ago(310)),
            job(R.RUNNING),
            EndReason.NO_PROGRESS,
            id="reports and stands still",
        ),
        pytest.param(
            running(no_progress_timeout_s=300, progress_at=ago(290)), job(R.RUNNING), None, id="moves now and then"
        ),
        pytest.param(
            running(no_progress_timeout_s=300), job(R.RUNNING), EndReason.NO_PROGRESS, id="never moved since its start"
        ),
        pytest.param(
            running(status=AttemptStatus.LAUNCHING), absent(9), None, id="the launcher looks after a launching one"
        ),
        pytest.param(
            running(**SUBMITTED, cancel_requested_at=ago(9)),
            job(R.PENDING),
            EndReason.CANCELLED_BY_USER,
            id="Ray cannot stop a pending job, so it is ended without",
        ),
        pytest.param(
            running(cancel_requested_at=ago(40), stop_requested_at=ago(21)),
            job(R.RUNNING),
            EndReason.CANCELLED_BY_USER,
            id="a person need not wait for a Ray that does not obey",
        ),
    ],
)
def test_end_reasons(facts: AttemptFacts, seen: Observation, expected: EndReason | None) -> None:
    assert reason(verdict(facts, seen)) == expected


@pytest.mark.parametrize(
    ("facts", "seen", "expected"),
    [
        pytest.param(running(), unwatched(1), Wait, id="the list of supervisors may be older than the job"),
        pytest.param(running(), unwatched(2), Poke, id="Ray shall look again"),
        pytest.param(running(), unwatched(9), Poke, id="a driver that is heard is at work"),
        pytest.param(running(heartbeat_at=ago(20)), unwatched(3), Poke, id="Ray gets its time"),
        pytest.param(running(heartbeat_at=ago(20)), unwatched(4), End, id="nobody has seen or heard of it"),
        pytest.param(ended(5), unwatched(9), Poke, id="an ended one may still hear that it is over"),
        pytest.param(ended(11), unwatched(4), Release, id="an ended one that nobody watches is gone"),
        pytest.param(ended(11, to_sweep=True), unwatched(4), Sweep, id="what it left is looked for first"),
        pytest.param(ended(11, to_sweep=True), job(R.FAILED), Sweep, id="over, and perhaps not all of it"),
        pytest.param(ended(601, to_sweep=True), job(R.FAILED), Release, id="no sweep holds it back for ever"),
    ],
)
def test_what_nobody_watches_over_and_what_is_swept(
    facts: AttemptFacts, seen: Observation, expected: type[Verdict]
) -> None:
    assert type(verdict(facts, seen)) is expected


def test_silence_of_the_api_makes_no_unwatched_run_a_lost_one() -> None:
    silent = running(heartbeat_at=ago(500))
    assert isinstance(verdict(silent, unwatched(9), api_up_since=None), Poke)


@pytest.mark.parametrize(
    ("facts", "seen", "expected"),
    [
        pytest.param(ended(0), job(R.SUCCEEDED), Release, id="over at both ends"),
        pytest.param(ended(0), job(R.FAILED, error_type=LOST), Wait, id="a driver that Ray lost may live on"),
        pytest.param(ended(11), job(R.FAILED, error_type=LOST), Release, id="by now it has heard that it is over"),
        pytest.param(ended(5), job(R.RUNNING), Wait, id="the driver is cleaning up"),
        pytest.param(ended(11), job(R.RUNNING), AskToStop, id="the driver does not go"),
        pytest.param(ended(11, stop_requested_at=ago(1)), job(R.RUNNING), Wait, id="Ray is at it"),
        pytest.param(ended(60, stop_requested_at=ago(30)), job(R.RUNNING), AskToStop, id="Ray is reminded"),
        pytest.param(ended(11), job(R.PENDING), AskToStop, id="it shall not begin"),
        pytest.param(ended(30, stop_requested_at=ago(12)), job(R.PENDING), Release, id="pending holds nothing"),
        pytest.param(ended(60), absent(1), Wait, id="absence seen once"),
        pytest.param(ended(60), absent(2), Release, id="absence seen twice"),
        pytest.param(ended(5), absent(2), Wait, id="absent, but its driver may not have heard"),
        pytest.param(
            ended(20, created_at=ago(30), submitted_at=None), absent(5), Wait, id="its submission may be on its way"
        ),
    ],
)
def test_what_happens_after_the_end(facts: AttemptFacts, seen: Observation, expected: type[Verdict]) -> None:
    assert type(verdict(facts, seen)) is expected


def test_a_cancelled_run_is_left_alone_for_the_grace_and_then_stopped() -> None:
    assert isinstance(verdict(running(cancel_requested_at=ago(7)), job(R.RUNNING)), Wait)
    assert isinstance(verdict(running(cancel_requested_at=ago(9)), job(R.RUNNING)), AskToStop)
    waiting = running(cancel_requested_at=ago(9), stop_requested_at=ago(1))
    assert isinstance(verdict(waiting, job(R.RUNNING)), Wait)


def test_a_cancelled_attempt_that_was_never_submitted_ends_even_while_ray_is_silent() -> None:
    launching = running(status=AttemptStatus.LAUNCHING, cancel_requested_at=ago(0), submitted_at=None)
    assert reason(verdict(launching, Unreachable(since=ago(500)))) is EndReason.CANCELLED_BY_USER


def test_an_attempt_that_must_be_stopped_is_ended_first() -> None:
    outcome = verdict(running(heartbeat_at=ago(100)), job(R.RUNNING))
    assert isinstance(outcome, End) and outcome.stop


def test_silence_counts_only_while_somebody_could_hear() -> None:
    silent = running(heartbeat_at=ago(500))
    assert isinstance(verdict(silent, job(R.RUNNING), api_up_since=None), Wait)
    assert isinstance(verdict(silent, job(R.RUNNING), api_up_since=ago(60)), Wait)
    assert reason(verdict(silent, job(R.RUNNING), api_up_since=ago(100))) is EndReason.HEARTBEAT_LOST
    unstarted = running(**SUBMITTED, submitted_at=ago(500))
    assert isinstance(verdict(unstarted, job(R.RUNNING), api_up_since=None), Wait)


def test_the_evidence_of_a_failure_is_in_the_message() -> None:
    outcome = verdict(running(), job(R.FAILED, driver_exit_code=-9, message="Job entrypoint command failed\nmore"))
    assert isinstance(outcome, End)
    assert outcome.message == "the driver ended without its report (exit code -9): Job entrypoint command failed"


moments = st.integers(0, 2000).map(ago)
maybe = st.one_of(st.none(), moments)
any_facts = st.builds(
    AttemptFacts,
    status=st.sampled_from([AttemptStatus.LAUNCHING, AttemptStatus.SUBMITTED, AttemptStatus.RUNNING]),
    cancel_requested_at=maybe,
    max_runtime_s=st.floats(30, 5000),
    no_progress_timeout_s=st.one_of(st.none(), st.floats(30, 5000)),
    ray_session=st.sampled_from([None, "session_1", "session_2"]),
    created_at=moments,
    submitted_at=maybe,
    started_at=maybe,
    heartbeat_at=maybe,
    progress_at=maybe,
    stop_requested_at=maybe,
    ended_at=st.none(),
)
statuses = st.sampled_from(list(RayJobStatus))
present = st.builds(
    lambda seen, times: replace(seen, times_unwatched=times),
    st.builds(job, statuses, since=st.integers(0, 2000), error_type=st.sampled_from([None, LOST])),
    st.integers(0, 9),
)
absences = st.builds(absent, st.integers(1, 5), st.sampled_from(["session_1", "session_2"]))
any_sight = st.one_of(present, absences)


@settings(deadline=None)
@given(any_facts, maybe, moments)
def test_nothing_is_concluded_from_a_ray_that_does_not_answer(
    facts: AttemptFacts, api_up_since: datetime | None, since: datetime
) -> None:
    outcome = judge(facts, Unreachable(since=since), NOW, LIMITS, api_up_since)
    assert isinstance(outcome, Wait) or (facts.status is AttemptStatus.LAUNCHING and facts.cancel_requested_at)


@settings(deadline=None)
@given(any_facts, moments, any_sight, maybe)
def test_an_ended_attempt_is_never_ended_again_and_a_live_one_never_released(
    facts: AttemptFacts, ended_at: datetime, seen: Observation, api_up_since: datetime | None
) -> None:
    over = replace(facts, status=AttemptStatus.ENDED, ended_at=ended_at)
    assert not isinstance(judge(over, seen, NOW, LIMITS, api_up_since), End)
    assert not isinstance(judge(facts, seen, NOW, LIMITS, api_up_since), Release | Sweep)


@settings(deadline=None)
@given(any_facts, any_sight)
def test_no_run_is_killed_for_its_silence_while_the_api_is_down(facts: AttemptFacts, seen: Observation) -> None:
    outcome = judge(facts, seen, NOW, LIMITS, None)
    assert reason(outcome) not in (EndReason.HEARTBEAT_LOST, EndReason.START_TIMEOUT, EndReason.NO_PROGRESS)


@settings(deadline=None)
@given(any_facts, any_sight, maybe)
def test_only_a_persons_wish_cancels(facts: AttemptFacts, seen: Observation, api_up_since: datetime | None) -> None:
    outcome = judge(replace(facts, cancel_requested_at=None), seen, NOW, LIMITS, api_up_since)
    assert reason(outcome) is not EndReason.CANCELLED_BY_USER


def test_one_that_was_asked_to_give_way_has_its_time_and_is_then_stopped() -> None:
    assert isinstance(verdict(running(preempt_requested_at=ago(899)), job(R.RUNNING)), Wait)
    outcome = verdict(running(preempt_requested_at=ago(901)), job(R.RUNNING))
    assert isinstance(outcome, End)
    assert (outcome.reason, outcome.stop) == (EndReason.PREEMPTED, True)


def test_one_that_ray_does_not_even_have_gives_way_at_once() -> None:
    launching = running(status=AttemptStatus.LAUNCHING, preempt_requested_at=ago(1))
    assert reason(verdict(launching, Unreachable(since=ago(60)))) is EndReason.PREEMPTED


def test_a_cancellation_counts_more_than_giving_way() -> None:
    both = running(preempt_requested_at=ago(1000), cancel_requested_at=ago(100))
    assert verdict(both, job(R.RUNNING)) == AskToStop(why="a person cancelled it")
