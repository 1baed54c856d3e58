"""The scheduler's look at studies: when one stops, when it is finished, and what becomes of what waits."""

from datetime import timedelta

import pytest
from sqlalchemy import func, update

from service import experiments, studies
from service.contract.status import EndReason, ExperimentStatus
from service.contract.study_changes import StudyChange
from service.errors import LeaseLost
from service.scheduler.lease import Lease
from service.scheduler.study_pass import watch_studies
from service.storage.database import Sessions
from service.storage.study_tables import Study
from service.storage.tables import Attempt, SchedulerLease
from service.studies.drafting import draft_study
from tests.factories import make_attempt, make_study, make_user, planned_study
from tests.service.scheduler.queue_world import QueueWorld, cpus
from tests.service.studies.counted_runs import fail, runs_of, succeed

pytestmark = pytest.mark.anyio
SIX = [1, 2, 3, 4, 5, 6]


async def study_now(sessions: Sessions, study_id: str) -> Study:
    async with sessions() as session:
        return await session.get_one(Study, study_id)


async def statuses(sessions: Sessions, study_id: str) -> list[str]:
    async with sessions() as session:
        return [run.status.value for run in await runs_of(session, study_id)]


async def test_a_study_whose_runs_have_all_ended_is_finished(sessions: Sessions, lease: Lease) -> None:
    async with sessions.begin() as session:
        study = await make_study(session)
        first, *rest = [run.run.experiment_id for run in await runs_of(session, study.id)]
        await fail(session, first)
        for experiment_id in rest[:-1]:
            await succeed(session, experiment_id)
    assert await watch_studies(sessions, lease) == 0, "one still waits"
    async with sessions.begin() as session:
        await succeed(session, rest[-1])
    assert await watch_studies(sessions, lease) == 1
    row = await study_now(sessions, study.id)
    assert (row.state, row.state_reason) == ("finished", "all_ended")
    assert row.evidence["by_status"] == {"failed": 1, "succeeded": 3}
    async with sessions.begin() as session:
        await experiments.retry(session, first, user=await make_user(session))
    await watch_studies(sessions, lease)
    assert (await study_now(sessions, study.id)).state == "running", "a retried run opens it again"


async def test_intervals_that_are_narrow_enough_stop_the_study(sessions: Sessions, lease: Lease) -> None:
    async with sessions.begin() as session:
        study = await make_study(session, sft_seeds=[*SIX, 7, 8], budget={"half_width": 0.3})
        runs = await runs_of(session, study.id)
        for run in runs[:10]:
            await succeed(session, run.run.experiment_id, [2, 3, 1, 2] if run.run.arm == "ce" else [3, 3, 2, 2])
    assert await watch_studies(sessions, lease) == 0
    row = await study_now(sessions, study.id)
    assert row.last_check is not None and row.last_check["half_widths"] == {"sed": None}, "five seeds are too few"
    async with sessions.begin() as session:
        for run in runs[10:12]:
            await succeed(session, run.run.experiment_id, [2, 2, 1, 2] if run.run.arm == "ce" else [3, 3, 2, 1])
    assert await watch_studies(sessions, lease) == 1
    row = await study_now(sessions, study.id)
    assert (row.state, row.state_reason) == ("stopped", "half_width")
    assert 0.0 < row.evidence["half_widths"]["sed"] <= 0.3 and row.evidence["experiments_cancelled"] == 4
    async with sessions() as session:
        ends = [(run.status, run.end_reason) for run in await runs_of(session, study.id)][12:]
    assert ends == [(ExperimentStatus.CANCELLED, EndReason.STUDY_STOPPED.value)] * 4


async def test_hours_used_stop_the_study_and_another_budget_takes_it_up_again(sessions: Sessions, lease: Lease) -> None:
    async with sessions.begin() as session:
        study = await make_study(session, budget={"max_cpu_hours": 4.0})
        first = (await runs_of(session, study.id))[0].run.experiment_id
        attempt = await make_attempt(session, await experiments.get(session, first))
        hours = update(Attempt).where(Attempt.id == attempt.id)
        await session.execute(hours.values(created_at=func.now() - timedelta(hours=3)))
    assert await watch_studies(sessions, lease) == 1, "three hours of two CPUs"
    row = await study_now(sessions, study.id)
    assert (row.state, row.state_reason) == ("stopped", "max_cpu_hours")
    assert row.message == "6 of 4 CPU-hours are used"
    assert await statuses(sessions, study.id) == ["running", "cancelled", "cancelled", "cancelled"]

    change = StudyChange.model_validate({"reason": "more is free", "budget": {"max_cpu_hours": 40.0}})
    async with sessions.begin() as session:
        spec = studies.apply_change((await studies.spec_and_amendments(session, row))[0], change)
        made = {(one.run.arm, one.run.sft_seed, one.run.rl_seed) for one in await runs_of(session, study.id)}
        planned = planned_study(draft_study(study.id, spec, made))
        ada = await make_user(session)
        await studies.amend(session, study.id, user=ada, change=change, planned=planned, num_before=0)
    assert await watch_studies(sessions, lease) == 0
    assert await statuses(sessions, study.id) == ["running", "queued", "queued", "queued"]
    assert (await study_now(sessions, study.id)).state == "running"


async def test_a_study_that_made_as_many_as_allowed_says_that_it_was_stopped(sessions: Sessions, lease: Lease) -> None:
    async with sessions.begin() as session:
        study = await make_study(session, budget={"max_experiments": 2})
        for run in await runs_of(session, study.id):
            await succeed(session, run.run.experiment_id)
    assert await watch_studies(sessions, lease) == 1
    row = await study_now(sessions, study.id)
    assert (row.state, row.state_reason) == ("stopped", "max_experiments")
    assert row.message == "2 experiments have started, 2 were allowed, 4 would be the whole study"


async def test_what_comes_back_to_the_queue_of_a_paused_study_is_held(sessions: Sessions, lease: Lease) -> None:
    world = QueueWorld(sessions, lease)
    await world.see(cpus("n1", 8))
    async with sessions.begin() as session:
        study, ada = await make_study(session), await make_user(session)
        first = (await runs_of(session, study.id))[0].run.experiment_id
        await fail(session, first)
        await studies.pause(session, study.id, user=ada, reason="")
        await experiments.retry(session, first, user=ada)
    await watch_studies(sessions, lease)
    await world.run()
    assert await statuses(sessions, study.id) == ["queued"] * 4


async def test_no_more_run_at_once_than_the_study_allows(sessions: Sessions, lease: Lease) -> None:
    world = QueueWorld(sessions, lease)
    await world.see(cpus("n1", 32))
    async with sessions.begin() as session:
        await make_study(session, max_running=2, sft_seeds=SIX)
    assert len(await world.run()) == 2


async def test_who_lost_the_lease_stops_no_study(sessions: Sessions, lease: Lease) -> None:
    async with sessions.begin() as session:
        study = await make_study(session, budget={"max_experiments": 2})
        for run in await runs_of(session, study.id):
            await succeed(session, run.run.experiment_id)
        await session.execute(update(SchedulerLease).values(token=SchedulerLease.token + 1))
    with pytest.raises(LeaseLost):
        await watch_studies(sessions, lease)
    assert (await study_now(sessions, study.id)).state == "running"
