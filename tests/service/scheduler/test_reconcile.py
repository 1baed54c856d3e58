"""The reconciler: what rows become when Ray and the drivers do not behave."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from service import attempts, experiments
from service.contract.status import EndReason
from service.errors import LeaseLost
from service.scheduler.admission_pass import run_admission
from service.scheduler.launch import Launcher
from service.scheduler.lease import Lease
from service.scheduler.ray_gateway import RayDashboard
from service.scheduler.reconcile import Reconciler
from service.scheduler.sightings import ApiWatch
from service.settings import SchedulerSettings
from service.storage.database import Sessions
from service.storage.processes import Uptime
from service.storage.tables import Attempt, ClusterState, Experiment, LogLineRow, SchedulerLease, ServiceProcess
from tests.factories import make_experiment, make_finish, make_report, make_stage_result, make_user
from tests.fakes import FakeRay

pytestmark = pytest.mark.anyio

LONG_AGO = datetime.now(UTC) - timedelta(days=1)


class Stage:
    """One experiment, a scheduler's parts, and time that can be let pass."""

    def __init__(self, sessions: Sessions, gateway: RayDashboard, settings: SchedulerSettings, lease: Lease) -> None:
        self.sessions = sessions
        self.lease = lease
        self.launcher = Launcher(sessions, gateway, settings)
        api_watch = ApiWatch()
        api_watch.up_since(Uptime(started_at=LONG_AGO, seen_at=LONG_AGO), LONG_AGO)
        self.reconciler = Reconciler(sessions, gateway, settings, api_watch)

    async def submit(self, **spec: Any) -> str:
        """An experiment whose attempt Ray has; returns the submission id."""
        async with self.sessions.begin() as session:
            await make_experiment(session, **spec)
        await self.reconcile()
        await run_admission(self.sessions, self.lease)
        await self.launcher.launch_all(self.lease)
        return (await self.attempt()).ray_submission_id

    async def start(self) -> None:
        async with self.sessions.begin() as session:
            await attempts.start(session, await self.attempt_in(session))

    async def finish(self, **values: Any) -> None:
        async with self.sessions.begin() as session:
            attempt = await self.attempt_in(session)
            await attempts.record_stage_result(session, attempt, make_stage_result())
            await attempts.finish(session, attempt, make_finish(**values))

    async def cancel(self) -> None:
        async with self.sessions.begin() as session:
            experiment = (await session.scalars(select(Experiment))).one()
            await experiments.cancel(session, experiment.id, user=await make_user(session))

    async def reconcile(self, times: int = 1) -> None:
        for _ in range(times):
            await self.reconciler.run_once(self.lease)

    async def pass_time(self, seconds: float) -> None:
        """All that happened in the database was `seconds` earlier."""
        moments = ("created_at", "submitted_at", "started_at", "heartbeat_at", "stop_requested_at", "ended_at")
        async with self.sessions.begin() as session:
            earlier = timedelta(seconds=seconds)
            await session.execute(update(Attempt).values({name: getattr(Attempt, name) - earlier for name in moments}))
            await session.execute(
                update(Experiment).values(cancel_requested_at=Experiment.cancel_requested_at - earlier)
            )

    async def api_is_up(self) -> None:
        """For a long time, and the scheduler has seen it all the while."""
        now = {"instance": "test", "started_at": LONG_AGO, "seen_at": func.now() + timedelta(days=1)}
        async with self.sessions.begin() as session:
            row = insert(ServiceProcess).values(role="api", **now)
            await session.execute(
                row.on_conflict_do_update(index_elements=[ServiceProcess.role, ServiceProcess.instance], set_=now)
            )

    async def attempt(self) -> Attempt:
        async with self.sessions() as session:
            return await self.attempt_in(session)

    async def experiment(self) -> Experiment:
        async with self.sessions() as session:
            return (await session.scalars(select(Experiment))).one()

    async def attempt_in(self, session: Any) -> Attempt:
        attempt: Attempt = (await session.scalars(select(Attempt))).one()
        return attempt


@pytest.fixture
def stage(sessions: Sessions, gateway: RayDashboard, settings: SchedulerSettings, lease: Lease) -> Stage:
    return Stage(sessions, gateway, settings, lease)


async def test_a_completed_attempt_is_released_when_ray_is_done_with_it(
    stage: Stage, ray: FakeRay, settings: SchedulerSettings
) -> None:
    job = await stage.submit()
    await stage.start()
    await stage.finish()
    ray.set_job(job, "RUNNING")
    await stage.reconcile()
    assert (await stage.attempt()).released_at is None
    ray.set_job(job, "SUCCEEDED")
    await stage.reconcile()
    attempt = await stage.attempt()
    assert (attempt.end_reason, attempt.released_at is not None) == ("completed", True)
    assert (await stage.experiment()).status == "succeeded"
    assert not (settings.worker_dir / attempt.id / "token").exists()


async def test_a_failed_job_leaves_evidence_and_is_tried_again(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit()
    await stage.start()
    ray.logs[job] = [f"line {number}" for number in range(300)] + ["Killed\x00"]
    ray.set_job(job, "FAILED", message="Job entrypoint command failed", driver_exit_code=-9)
    await stage.reconcile()
    attempt = await stage.attempt()
    assert attempt.end_reason == EndReason.RAY_JOB_FAILED
    assert attempt.evidence["driver_exit_code"] == -9
    assert len(attempt.evidence["log_tail"]) == 200
    assert (await stage.experiment()).status == "queued"
    async with stage.sessions() as session:
        lines = (await session.scalars(select(LogLineRow).order_by(LogLineRow.id))).all()
    assert (len(lines), lines[0].source, lines[0].text) == (200, "scheduler", "line 101")


async def test_a_report_that_came_first_is_the_truth(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit()
    await stage.start()
    await stage.finish(reason=EndReason.NON_FINITE)
    ray.set_job(job, "FAILED", driver_exit_code=1)
    await stage.reconcile()
    attempt = await stage.attempt()
    assert (attempt.end_reason, attempt.released_at is not None) == ("non_finite", True)


async def test_a_report_that_comes_while_ray_is_asked_is_the_truth(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit()
    await stage.start()
    ray.set_job(job, "FAILED", driver_exit_code=1)

    async def finish_meanwhile(what: str) -> None:
        if what == "before GET /api/v0/logs/file":
            await stage.finish(reason=EndReason.NON_FINITE)

    ray.meanwhile = finish_meanwhile
    await stage.reconcile()
    assert (await stage.attempt()).end_reason == "non_finite"


async def test_jobs_of_a_cluster_started_anew_are_lost_and_tried_again(stage: Stage, ray: FakeRay) -> None:
    await stage.submit()
    await stage.start()
    ray.restart()
    await stage.pass_time(60)
    await stage.reconcile()
    assert (await stage.attempt()).status == "running", "seen once"
    await stage.reconcile()
    attempt = await stage.attempt()
    assert (attempt.end_reason, attempt.message) == ("ray_job_lost", "Ray was started anew and its jobs are gone")
    await stage.pass_time(10)
    await stage.reconcile(3)  # a sweep begins, is over, and lets go
    assert (await stage.attempt()).released_at is not None


async def test_an_unreachable_ray_changes_nothing_and_shows_its_last_sight(stage: Stage, ray: FakeRay) -> None:
    await stage.submit()
    await stage.start()
    ray.down = True
    await stage.pass_time(100_000)
    await stage.reconcile(3)
    assert (await stage.attempt()).status == "running"
    async with stage.sessions() as session:
        state = (await session.scalars(select(ClusterState))).one()
    assert (state.reachable, state.num_cpus, state.ray_session) == (False, 2.0, "session_1")
    assert "no answer from Ray's dashboard" in state.message


async def test_a_hung_driver_is_fenced_then_stopped_then_released(stage: Stage, ray: FakeRay) -> None:
    await stage.api_is_up()
    job = await stage.submit()
    await stage.start()
    ray.set_job(job, "RUNNING")
    await stage.pass_time(91)
    await stage.reconcile()
    attempt = await stage.attempt()
    assert (attempt.end_reason, attempt.stop_requested_at is not None) == ("heartbeat_lost", True)
    assert ray.stops == [job]
    await stage.reconcile(3)
    assert (await stage.attempt()).released_at is not None


async def test_a_driver_that_is_heard_at_the_last_moment_is_spared(stage: Stage, ray: FakeRay) -> None:
    await stage.api_is_up()
    job = await stage.submit()
    await stage.start()
    ray.set_job(job, "RUNNING")
    await stage.pass_time(91)

    async def report_meanwhile(what: str) -> None:
        if what == "before GET /api/v0/logs/file":
            async with stage.sessions.begin() as session:
                await attempts.accept_report(session, await stage.attempt_in(session), make_report())

    ray.meanwhile = report_meanwhile
    await stage.reconcile()
    assert (await stage.attempt()).status == "running"
    assert ray.stops == []


async def test_a_silent_driver_is_spared_while_the_api_is_down(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit()
    await stage.start()
    ray.set_job(job, "RUNNING")
    await stage.pass_time(3000)
    await stage.reconcile(2)
    assert (await stage.attempt()).status == "running"


async def test_a_driver_that_never_starts_times_out(stage: Stage, ray: FakeRay) -> None:
    await stage.api_is_up()
    job = await stage.submit()
    await stage.pass_time(181)
    await stage.reconcile()
    assert (await stage.attempt()).end_reason == EndReason.START_TIMEOUT
    await stage.pass_time(11)
    await stage.reconcile(4)
    assert ray.stops == [job]
    assert (await stage.attempt()).released_at is not None, "a pending job holds nothing"


async def test_a_run_beyond_its_time_is_stopped(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit(max_runtime_s=30)
    await stage.start()
    ray.set_job(job, "RUNNING")
    await stage.pass_time(31)
    await stage.reconcile()
    assert (await stage.experiment()).end_reason == EndReason.MAX_RUNTIME_EXCEEDED
    assert ray.stops == [job]


async def test_a_cancelled_run_gets_its_grace_and_is_then_stopped(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit()
    await stage.start()
    ray.set_job(job, "RUNNING")
    await stage.cancel()
    await stage.reconcile()
    assert ray.stops == []
    await stage.pass_time(9)
    await stage.reconcile(2)
    assert ray.stops == [job]
    assert (await stage.attempt()).end_reason == EndReason.CANCELLED_BY_USER
    assert (await stage.experiment()).status == "cancelled"


async def test_a_cancel_before_the_submission_needs_no_ray(stage: Stage, ray: FakeRay) -> None:
    async with stage.sessions.begin() as session:
        await make_experiment(session)
    await stage.reconcile()
    await run_admission(stage.sessions, stage.lease)
    await stage.cancel()
    ray.down = True
    await stage.reconcile()
    assert (await stage.experiment()).status == "cancelled"
    ray.down = False
    await stage.pass_time(60)
    await stage.reconcile(2)
    assert (await stage.attempt()).released_at is not None
    assert ray.accepted == []


async def test_a_job_that_outlives_its_attempt_is_stopped_and_only_then_released(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit()
    await stage.start()
    await stage.finish()
    ray.set_job(job, "RUNNING")
    await stage.pass_time(11)
    await stage.reconcile()
    assert ray.stops == [job]
    assert (await stage.attempt()).released_at is None
    await stage.reconcile()
    assert (await stage.attempt()).released_at is not None


async def test_a_lease_stolen_between_the_look_and_the_act_leaves_nothing_written(
    stage: Stage, ray: FakeRay, sessions: Sessions
) -> None:
    job = await stage.submit()
    await stage.start()
    ray.set_job(job, "FAILED")

    async def steal(what: str) -> None:
        if what == "before GET /api/v0/logs/file":
            async with sessions.begin() as session:
                await session.execute(update(SchedulerLease).values(token=SchedulerLease.token + 1))

    ray.meanwhile = steal
    with pytest.raises(LeaseLost):
        await stage.reconcile()
    assert (await stage.attempt()).status == "running"
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(LogLineRow)) == 0
