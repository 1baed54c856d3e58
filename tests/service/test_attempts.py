"""Attempts from admission to release, on PostgreSQL."""

from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import update

from service import attempts, experiments, queue, reporting
from service.contract.failures import FailureClass
from service.contract.messages import Progress
from service.contract.status import EXPERIMENT_MOVES, EndReason, ExperimentStatus
from service.errors import InvalidReport, NotAllowedNow, ReportGap, StaleAttempt
from service.storage.database import Sessions
from service.storage.tables import Attempt
from tests.factories import (
    NOW,
    experiment_of,
    make_attempt,
    make_experiment,
    make_finish,
    make_report,
    make_run_event,
    make_stage_result,
    make_user,
)

pytestmark = pytest.mark.anyio
RETRYABLE = EndReason.ACTOR_DIED


async def test_open_attempt_admits_with_a_submission_id_that_follows_from_the_number(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        experiment = await make_experiment(session)
        attempt = await attempts.open_attempt(session, experiment, NOW)
        assert attempt.ray_submission_id == f"sedray-{experiment.id}-a1"
        assert (attempt.status, experiment.status, experiment.num_attempts) == ("launching", "admitted", 1)


async def test_no_second_attempt_before_the_first_is_released(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        experiment = await attempts.end_attempt(session, attempt, RETRYABLE, "gone", {})
        with pytest.raises(NotAllowedNow, match="still holds"):
            await attempts.open_attempt(session, experiment, NOW)
        await attempts.release(session, attempt, NOW)
        assert (await attempts.open_attempt(session, experiment, NOW)).number == 2


async def test_a_driver_that_starts_before_submission_is_noted_keeps_running(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, started=False)
        await attempts.start(session, attempt)
        noted = await attempts.mark_submitted(session, attempt, ray_session="session_1", now=NOW)
        assert (noted.status, noted.submitted_at, noted.ray_session) == ("running", NOW, "session_1")


async def test_repeated_start_gives_the_same_reply(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.record_stage_result(session, attempt, make_stage_result())
        first = await attempts.start(session, attempt)
        again = await attempts.start(session, attempt)
        assert again == first
        assert [result.stage for result in again.completed_stages] == ["sft"]


async def test_start_while_cancelling_leaves_the_experiment_cancelling(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, started=False)
        await experiments.cancel(session, attempt.experiment_id, user=await make_user(session))
        started = await attempts.start(session, attempt)
        assert (started.experiment.status, started.attempt.status) == ("cancelling", "running")


async def test_stop_request_keeps_its_first_time(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.mark_stop_requested(session, attempt, NOW)
        later = await attempts.mark_stop_requested(session, attempt, NOW + timedelta(seconds=9))
        assert later.stop_requested_at == NOW


async def test_reports_count_up_and_a_repeated_one_is_a_duplicate(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        taken = [await attempts.accept_report(session, attempt, make_report(seq)) for seq in (1, 2, 2, 1, 3)]
        assert taken == [False, False, True, True, False]


async def test_a_gap_in_the_reports_names_the_expected_one(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        with pytest.raises(ReportGap) as refused:
            await attempts.accept_report(session, attempt, make_report(2))
        assert refused.value.details == {"expected_seq": 1}


async def test_report_before_start_is_refused(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, started=False)
        with pytest.raises(NotAllowedNow, match="call start"):
            await attempts.accept_report(session, attempt, make_report())


async def test_a_report_without_progress_keeps_the_last_one(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        progress = Progress(stage="sft", phase="training", step=3, num_steps=10, since=NOW)
        await attempts.accept_report(session, attempt, make_report(1, progress=progress))
        await attempts.accept_report(session, attempt, make_report(2))
        await session.refresh(attempt)
        assert Progress.model_validate(attempt.progress) == progress


async def test_events_of_a_report_join_the_experiments_own_once_with_the_drivers_time(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        event = make_run_event(message="odd \0", detail={"loss": float("nan")})
        for _ in range(2):
            await reporting.take_report(session, attempt, make_report(1, events=[event]))
        rows = await experiments.events_after(session, attempt.experiment_id, after=0, limit=100)
        [stored] = [row for row in rows if row.kind == event.kind]
        assert (stored.message, stored.detail, stored.ts) == ("odd \ufffd", {"loss": "NaN"}, NOW)
        assert stored.attempt_id == attempt.id


async def test_of_a_flood_of_events_the_first_are_kept_and_the_rest_is_told_once(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        for seq, count in ((1, 995), (2, 10), (3, 10)):
            events = [make_run_event("flood") for _ in range(count)]
            await reporting.take_report(session, attempt, make_report(seq, events=events))
        rows = await experiments.events_after(session, attempt.experiment_id, after=0, limit=2000)
        kinds = Counter(row.kind for row in rows)
        assert (kinds["flood"], kinds["events_left_out"]) == (1000, 1)


async def test_stale_attempt_can_neither_start_report_record_nor_end(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.end_attempt(session, attempt, RETRYABLE, "gone", {})
        for call in (
            attempts.start(session, attempt),
            attempts.accept_report(session, attempt, make_report()),
            attempts.record_stage_result(session, attempt, make_stage_result()),
            attempts.finish(session, attempt, make_finish()),
            attempts.end_attempt(session, attempt, EndReason.COMPLETED, "", {}),
        ):
            with pytest.raises(StaleAttempt):
                await call


async def test_a_stage_result_is_kept_once(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        assert await attempts.record_stage_result(session, attempt, make_stage_result(steps_done=10))
        assert not await attempts.record_stage_result(session, attempt, make_stage_result(steps_done=9))
        started = await attempts.start(session, attempt)
        assert [result.steps_done for result in started.completed_stages] == [10]


async def test_results_with_nan_and_nul_characters_come_back(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        odd = make_stage_result(metrics={"a": float("nan"), "b": float("-inf")}, detail={"text": "x\0y", "n": [1e400]})
        await attempts.record_stage_result(session, attempt, odd)
        [back] = (await attempts.start(session, attempt)).completed_stages
        assert str(back.metrics) == "{'a': nan, 'b': -inf}"
        assert back.detail == {"text": "x\ufffdy", "n": ["Infinity"]}


async def test_a_result_of_a_stage_that_was_not_planned_is_refused(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        with pytest.raises(InvalidReport, match="has no stage rl"):
            await attempts.record_stage_result(session, attempt, make_stage_result("rl"))


async def test_finish_after_all_steps_and_stages_succeeds_and_may_be_repeated(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.record_stage_result(session, attempt, make_stage_result())
        for _ in range(2):
            experiment = await attempts.finish(session, attempt, make_finish())
            assert (experiment.status, experiment.end_reason) == ("succeeded", "completed")
        with pytest.raises(StaleAttempt):
            await attempts.finish(session, attempt, make_finish(EndReason.STAGE_FAILED))


async def test_completed_with_fewer_steps_is_incomplete(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.record_stage_result(session, attempt, make_stage_result())
        experiment = await attempts.finish(session, attempt, make_finish(steps_done=9))
        assert (experiment.status, experiment.end_reason) == ("failed", "incomplete")
        assert "9 of 10 planned steps" in experiment.message
        assert await attempts.finish(session, attempt, make_finish(steps_done=9)) == experiment


async def test_completed_without_a_stage_result_is_incomplete(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        experiment = await attempts.finish(session, await make_attempt(session), make_finish())
        assert (experiment.end_reason, "no result arrived of sft" in experiment.message) == ("incomplete", True)


async def test_infrastructure_failure_requeues_with_back_off_and_keeps_the_place(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        before = (await experiment_of(session, attempt)).queued_at
        experiment = await attempts.end_attempt(session, attempt, RETRYABLE, "node died", {"node": "n1"})
        assert (experiment.status, experiment.queued_at, experiment.num_failed_attempts) == ("queued", before, 1)
        assert experiment.not_before is not None and experiment.waiting_reason is not None
        await attempts.release(session, attempt, NOW)
        assert [(row.id, row.not_before) for row in await queue.waiting_rows(session)] == [
            (experiment.id, experiment.not_before)
        ]


async def test_no_retries_left_means_failed(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, max_retries=0)
        experiment = await attempts.end_attempt(session, attempt, RETRYABLE, "node died", {})
        assert (experiment.status, experiment.end_reason, experiment.message) == ("failed", "actor_died", "node died")


async def test_cancelling_ends_cancelled_whatever_the_attempt_died_of(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await experiments.cancel(session, attempt.experiment_id, user=await make_user(session))
        experiment = await attempts.end_attempt(session, attempt, RETRYABLE, "killed", {})
        assert (experiment.status, experiment.end_reason) == ("cancelled", "cancelled_by_user")


async def test_a_run_that_did_all_its_work_succeeds_although_it_was_being_cancelled(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.record_stage_result(session, attempt, make_stage_result())
        await experiments.cancel(session, attempt.experiment_id, user=await make_user(session))
        assert (await attempts.finish(session, attempt, make_finish())).status == "succeeded"


async def test_a_stop_that_nobody_asked_for_counts_as_a_lost_job(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        stopped = make_finish(EndReason.CANCELLED_BY_USER)
        experiment = await attempts.finish(session, attempt, stopped)
        assert experiment.status == "queued"
        await session.refresh(attempt)
        assert (attempt.end_reason, "nobody asked" in attempt.message) == ("ray_job_failed", True)
        await attempts.finish(session, attempt, stopped)


async def test_resources_count_until_release(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        assert (await queue.taken(session)).num_cpus == 1.0
        with pytest.raises(NotAllowedNow, match="end it"):
            await attempts.release(session, attempt, NOW)
        await attempts.end_attempt(session, attempt, EndReason.CONFIG_ERROR, "no model", {})
        assert (await queue.taken(session)).num_cpus == 1.0
        await attempts.release(session, attempt, NOW)
        again = await attempts.release(session, attempt, NOW + timedelta(seconds=5))
        assert ((await queue.taken(session)).num_cpus, again.released_at) == (0.0, NOW)


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason.ends_attempts])
@pytest.mark.parametrize("current", [ExperimentStatus.ADMITTED, ExperimentStatus.RUNNING, ExperimentStatus.CANCELLING])
def test_every_end_leads_to_a_status_that_the_table_allows(current: ExperimentStatus, reason: EndReason) -> None:
    if reason is EndReason.CANCELLED_BY_USER and current is not ExperimentStatus.CANCELLING:
        return  # end_attempt turns it into a lost job
    for counts in ({}, {kind.value: 99 for kind in FailureClass}):
        assert attempts.next_status(current, reason, counts, 2)[0] in EXPERIMENT_MOVES[current]


async def test_an_hour_of_work_that_the_next_attempt_goes_on_from_gives_all_retries_back(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        first = await make_attempt(session, max_retries=1)
        await session.execute(update(Attempt).values(progress_at=Attempt.started_at + timedelta(hours=1)))
        experiment = await attempts.end_attempt(session, first, RETRYABLE, "node died", {})
        await attempts.release(session, first, NOW)
        second = await make_attempt(session, experiment)
        resumed = make_run_event("resumed", detail={"stage": "sft", "step": 40})
        await reporting.take_report(session, second, make_report(1, events=[resumed]))
        experiment = await attempts.end_attempt(session, second, RETRYABLE, "node died again", {})
        assert (experiment.status, experiment.failure_counts) == ("queued", {"infra_node": 1})


async def test_an_hour_of_work_that_is_lost_again_gives_no_retry_back(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        first = await make_attempt(session, max_retries=1)
        await session.execute(update(Attempt).values(progress_at=Attempt.started_at + timedelta(hours=1)))
        experiment = await attempts.end_attempt(session, first, RETRYABLE, "node died", {})
        await attempts.release(session, first, NOW)
        second = await make_attempt(session, experiment)
        experiment = await attempts.end_attempt(session, second, RETRYABLE, "node died again", {})
        assert (experiment.status, experiment.end_reason) == ("failed", RETRYABLE)


async def test_progress_counts_when_stage_phase_or_step_change(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        moments = []
        for seq, step in enumerate((3, 3, 4), start=1):
            progress = Progress(stage="sft", phase="training", step=step, num_steps=10, since=NOW)
            await attempts.accept_report(session, attempt, make_report(seq, progress=progress))
            await session.refresh(attempt)
            moments.append(attempt.progress_at)
        assert moments[0] == moments[1] != moments[2]
