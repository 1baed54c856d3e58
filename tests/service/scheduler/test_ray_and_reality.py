"""Where Ray's word and reality differ: one test for each row of the table of what is seen and what follows.

The rows about a Ray that does not answer, was started anew, has no such job, says nothing of a hang, or of a success
without a report, are in test_reconcile.
"""

import pytest
from sqlalchemy import select

from service import attempts
from service.contract.status import EndReason
from service.errors import StaleAttempt
from service.scheduler.lease import Lease
from service.scheduler.ray_gateway import CANARY, RayDashboard
from service.settings import SchedulerSettings
from service.storage.database import Sessions
from service.storage.tables import ExperimentEvent
from tests.factories import make_report
from tests.fakes import FakeRay
from tests.service.scheduler.test_reconcile import Stage

pytestmark = pytest.mark.anyio


@pytest.fixture
def stage(sessions: Sessions, gateway: RayDashboard, settings: SchedulerSettings, lease: Lease) -> Stage:
    return Stage(sessions, gateway, settings, lease)


async def running_job(stage: Stage, ray: FakeRay) -> str:
    await stage.api_is_up()
    job = await stage.submit()
    await stage.start()
    ray.set_job(job, "RUNNING")
    await stage.reconcile()
    return job


async def notes(stage: Stage) -> list[str]:
    async with stage.sessions() as session:
        told = select(ExperimentEvent.message).where(ExperimentEvent.kind == "note").order_by(ExperimentEvent.id)
        return list(await session.scalars(told))


async def test_a_dead_job_that_ray_calls_running_is_poked_until_ray_admits_it(stage: Stage, ray: FakeRay) -> None:
    job = await running_job(stage, ray)
    ray.unwatched.add(job)
    await stage.pass_time(60)
    await stage.reconcile()
    assert CANARY not in ray.jobs, "seen once"

    async def look_again(what: str) -> None:
        if what == "after POST /api/jobs/":
            ray.set_job(job, "FAILED", error_type="JOB_SUPERVISOR_ACTOR_START_FAILURE")

    ray.meanwhile = look_again
    await stage.reconcile(2)
    assert CANARY in ray.jobs
    assert (await stage.attempt()).end_reason == EndReason.RAY_JOB_FAILED


async def test_a_dead_job_that_ray_goes_on_calling_running_is_lost(stage: Stage, ray: FakeRay) -> None:
    job = await running_job(stage, ray)
    ray.unwatched.add(job)
    await stage.pass_time(60)
    await stage.reconcile(3)
    assert (await stage.attempt()).status == "running"
    assert ray.stops == [CANARY], "the second poke stops a job that is over"
    await stage.reconcile()
    assert (await stage.attempt()).end_reason == EndReason.RAY_JOB_LOST
    assert (await stage.experiment()).status == "queued"
    await stage.pass_time(11)
    await stage.reconcile(3)
    assert (await stage.attempt()).released_at is not None, "no status of Ray's holds its resources for ever"


async def test_a_driver_on_a_dead_node_is_lost(stage: Stage, ray: FakeRay) -> None:
    await running_job(stage, ray)
    ray.dead_nodes.add("n1")
    await stage.pass_time(60)
    await stage.reconcile(4)
    assert (await stage.attempt()).end_reason == EndReason.RAY_JOB_LOST


async def test_a_driver_that_reports_is_not_lost_whatever_ray_says(stage: Stage, ray: FakeRay) -> None:
    job = await running_job(stage, ray)
    ray.unwatched.add(job)
    await stage.reconcile(8)
    assert (await stage.attempt()).status == "running"


async def test_split_brain_is_fenced_and_swept_before_another_attempt_may_begin(stage: Stage, ray: FakeRay) -> None:
    job = await running_job(stage, ray)
    ray.set_job(job, "FAILED", error_type="JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")
    attempt = await stage.attempt()
    ray.leftovers = [{"node": "host", "pid": 41, "attempt_id": attempt.id, "command": "python -m workers.pipeline"}]
    await stage.reconcile()
    assert (await stage.experiment()).status == "queued"
    async with stage.sessions.begin() as session:
        with pytest.raises(StaleAttempt):
            await attempts.accept_report(session, await stage.attempt_in(session), make_report())
    await stage.reconcile()
    assert ray.sweeps == [], "its driver may hear in time that it is over"
    await stage.pass_time(11)
    await stage.reconcile(2)
    assert (await stage.attempt()).released_at is None
    await stage.reconcile()
    assert (await stage.attempt()).released_at is not None
    assert ray.sweeps[0]["attempt_ids"] == [attempt.id]
    assert (await notes(stage))[-1] == (
        "ended what the attempt had left behind: python -m workers.pipeline (process 41 on host)"
    )


async def test_detached_actors_and_placement_groups_are_swept_by_the_drivers_number(stage: Stage, ray: FakeRay) -> None:
    job = await running_job(stage, ray)
    ray.add_actor(job, "Leak", 50, name="leak", ray_namespace="elsewhere", is_detached=True)
    ray.add_actor(job, "Gone", 51, name="gone", state="DEAD")
    number = ray.jobs[job]["job_id"]
    ray.groups.append({"placement_group_id": "ab12", "state": "CREATED", "creator_job_id": number})
    ray.groups.append({"placement_group_id": "ab13", "state": "REMOVED", "creator_job_id": number})
    ray.groups.append({"placement_group_id": "ab14", "state": "CREATED", "creator_job_id": "99000000"})
    await stage.reconcile()
    ray.restart()  # the job's entry is gone, its number is not
    ray.session_name = "session_1"
    await stage.pass_time(60)
    await stage.reconcile(2)
    await stage.pass_time(11)
    await stage.reconcile()
    [orders] = ray.sweeps
    assert orders["actors"] == [{"name": "leak", "namespace": "elsewhere"}]
    assert orders["placement_groups"] == ["ab12"]


async def test_an_orphan_submit_is_abandoned_and_the_next_attempt_has_another_id(stage: Stage, ray: FakeRay) -> None:
    await stage.api_is_up()
    job = await stage.submit()
    ray.unwatched.add(job)
    await stage.pass_time(181)
    await stage.reconcile()
    attempt = await stage.attempt()
    assert (attempt.end_reason, attempt.ray_submission_id) == (EndReason.START_TIMEOUT, job)
    assert (await stage.experiment()).num_attempts == 1


async def test_a_supervisor_without_a_place_raises_the_alarm_and_is_ended_by_its_name(
    stage: Stage, ray: FakeRay
) -> None:
    await stage.api_is_up()
    job = await stage.submit()
    ray.waiting.add(job)
    await stage.pass_time(181)
    await stage.reconcile()
    assert "fuller than our ledger says" in (await stage.attempt()).message
    await stage.pass_time(11)
    await stage.reconcile(2)
    [orders] = ray.sweeps
    namespace = "SUPERVISOR_ACTOR_RAY_NAMESPACE"
    assert orders["actors"] == [{"name": f"_ray_internal_job_actor_{job}", "namespace": namespace}]


async def test_a_sweep_that_fails_is_told_and_holds_nothing_back(stage: Stage, ray: FakeRay) -> None:
    job = await running_job(stage, ray)
    ray.sweep_status = "FAILED"
    ray.set_job(job, "FAILED", driver_exit_code=-9)
    await stage.reconcile(4)
    assert (await stage.attempt()).released_at is not None
    assert "could not be searched" in (await notes(stage))[-1]


async def test_a_driver_that_cleaned_up_after_itself_needs_no_sweep(stage: Stage, ray: FakeRay) -> None:
    job = await running_job(stage, ray)
    await stage.finish(reason=EndReason.STAGE_FAILED)
    ray.set_job(job, "FAILED", driver_exit_code=1)
    await stage.reconcile()
    assert (await stage.attempt()).released_at is not None
    assert ray.sweeps == []
