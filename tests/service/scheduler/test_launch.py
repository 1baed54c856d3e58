"""From the queue to Ray: killed at every step, and never two jobs of an attempt nor none."""

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from service import attempts, experiments
from service.auth import attempt_token
from service.contract.status import EndReason
from service.errors import LeaseLost
from service.scheduler.admission_pass import run_admission
from service.scheduler.capacity import Bounds, record_sight, record_silence
from service.scheduler.launch import Launcher
from service.scheduler.lease import Lease, acquire_lease
from service.scheduler.ray_gateway import RayDashboard
from service.scheduler.ray_jobs import ClusterView
from service.settings import SchedulerSettings
from service.storage.clock import database_now
from service.storage.database import Sessions
from service.storage.tables import Attempt, Experiment, SchedulerLease
from tests.factories import make_experiment, make_user
from tests.fakes import FakeRay, nothing

pytestmark = pytest.mark.anyio


class Killed(BaseException):
    """The process dies here: no handler of the code under test may run on."""


@dataclass
class Executioner:
    """Counts steps, and kills at one of them."""

    steps_left: int = -1

    async def request(self, _: str) -> None:
        """Beside a request to Ray."""
        self.step()

    def step(self) -> None:
        """A place at which the process may die; it dies where `steps_left` reaches 0."""
        self.steps_left -= 1
        if self.steps_left == 0:
            raise Killed


@contextmanager
def killing(engine: AsyncEngine, ray: FakeRay, executioner: Executioner) -> Iterator[None]:
    """Every statement, commit and request to Ray, before and after, is a step."""

    def statement(*_: object) -> None:
        executioner.step()

    event.listen(engine.sync_engine, "before_cursor_execute", statement)
    event.listen(engine.sync_engine, "commit", statement)
    ray.meanwhile = executioner.request
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", statement)
        event.remove(engine.sync_engine, "commit", statement)
        ray.meanwhile = nothing


async def see_cluster(sessions: Sessions, num_cpus: float = 2.0) -> None:
    view = ClusterView(session_name="session_1", num_cpus=num_cpus, num_gpus=0.0, num_nodes=1)
    async with sessions.begin() as session:
        await record_sight(session, view, Bounds(num_cpus=None, num_gpus=None), await database_now(session))


async def queue_one(sessions: Sessions, **spec: object) -> str:
    async with sessions.begin() as session:
        return (await make_experiment(session, **spec)).id


async def attempt_of(sessions: Sessions, experiment_id: str) -> Attempt:
    async with sessions() as session:
        return (await session.scalars(select(Attempt).where(Attempt.experiment_id == experiment_id))).one()


async def experiment(sessions: Sessions, experiment_id: str) -> Experiment:
    async with sessions() as session:
        return await session.get_one(Experiment, experiment_id)


async def new_lease(sessions: Sessions) -> Lease:
    async with sessions.begin() as session:
        lease = await acquire_lease(session, "scheduler", ttl_s=0)
    assert lease is not None
    return lease


@pytest.fixture
def launcher(sessions: Sessions, gateway: RayDashboard, settings: SchedulerSettings) -> Launcher:
    return Launcher(sessions, gateway, settings)


async def test_an_experiment_goes_from_the_queue_to_ray(
    sessions: Sessions, lease: Lease, launcher: Launcher, ray: FakeRay, settings: SchedulerSettings
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    assert await run_admission(sessions, lease) == 1
    assert await launcher.launch_all(lease) is False
    attempt = await attempt_of(sessions, experiment_id)
    assert (attempt.status, attempt.ray_session) == ("submitted", "session_1")
    job = ray.jobs[attempt.ray_submission_id]
    assert job["entrypoint"] == "'/opt/worker env/bin/python' -m workers.pipeline"
    assert job["metadata"]["attempt"] == attempt.id
    folder = settings.worker_dir / attempt.id
    assert job["runtime_env"] == {
        "env_vars": {
            "SEDRAY_ATTEMPT_ID": attempt.id,
            "SEDRAY_SERVICE_URL": "http://service.test:8700",
            "SEDRAY_TOKEN_FILE": str(folder / "token"),
            "SEDRAY_WORK_DIR": str(folder),
            "PYTHONUNBUFFERED": "1",
            "RAY_JOB_STOP_WAIT_TIME_S": "10",
        }
    }


async def test_a_driver_hears_which_keys_mirrors_may_use_and_no_key(
    sessions: Sessions, lease: Lease, gateway: RayDashboard, ray: FakeRay, settings: SchedulerSettings
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    await run_admission(sessions, lease)
    allowed = {"WANDB_API_KEY": "https://api.wandb.ai"}
    await Launcher(sessions, gateway, settings.model_copy(update={"mirror_keys": allowed})).launch_all(lease)
    attempt = await attempt_of(sessions, experiment_id)
    environment = ray.jobs[attempt.ray_submission_id]["runtime_env"]["env_vars"]
    assert json.loads(environment["SEDRAY_MIRROR_KEYS"]) == allowed


async def test_the_token_is_the_attempts_and_only_its_owner_reads_it(
    sessions: Sessions, lease: Lease, launcher: Launcher, ray: FakeRay, settings: SchedulerSettings
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    await run_admission(sessions, lease)
    await launcher.launch_all(lease)
    attempt = await attempt_of(sessions, experiment_id)
    folder = settings.worker_dir / attempt.id
    token = (folder / "token").read_text()
    assert token == attempt_token(b"k" * 32, attempt.id, 1)
    assert token not in str(ray.jobs)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "token")] == [0o700, 0o600]


async def test_killed_anywhere_no_attempt_gets_two_jobs_and_none_is_lost(
    sessions: Sessions,
    engine: AsyncEngine,
    gateway: RayDashboard,
    ray: FakeRay,
    settings: SchedulerSettings,
) -> None:
    async def schedule() -> None:
        """What a scheduler does after its start."""
        lease = await new_lease(sessions)
        await run_admission(sessions, lease)
        await Launcher(sessions, gateway, settings).launch_all(lease)

    kills = 0
    for number in range(1, 200):
        # What was seen of the cluster grows old on a busy machine.
        await see_cluster(sessions, num_cpus=1e6)
        experiment_id = await queue_one(sessions)
        ray.lost_answers = number % 2
        executioner = Executioner(steps_left=number)
        with killing(engine, ray, executioner), suppress(Killed):
            await schedule()
        done = executioner.steps_left > 0
        kills += not done
        if number % 3 == 0:  # and once more, on the way back
            with killing(engine, ray, Executioner(steps_left=number // 2)), suppress(Killed):
                await schedule()
        await schedule()
        attempt = await attempt_of(sessions, experiment_id)
        assert (attempt.number, attempt.status) == (1, "submitted"), f"killed at step {number}"
        assert ray.accepted.count(attempt.ray_submission_id) == 1, f"killed at step {number}"
        if done:
            break
    assert kills > 25, "every statement, commit and request was a step"
    assert len(ray.accepted) == kills + 1


async def test_ray_unreachable_leaves_the_attempt_launching_for_the_next_try(
    sessions: Sessions, lease: Lease, launcher: Launcher, ray: FakeRay
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    await run_admission(sessions, lease)
    ray.down = True
    assert await launcher.launch_all(lease) is True
    assert (await attempt_of(sessions, experiment_id)).status == "launching"
    ray.down = False
    assert await launcher.launch_all(lease) is False
    assert (await attempt_of(sessions, experiment_id)).status == "submitted"


async def test_a_ray_that_goes_on_refusing_ends_the_attempt_after_the_deadline(
    sessions: Sessions, lease: Lease, gateway: RayDashboard, ray: FakeRay, settings: SchedulerSettings
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    await run_admission(sessions, lease)
    launcher = Launcher(sessions, gateway, settings)
    ray.refusals = 2
    assert await launcher.launch_all(lease) is True
    assert (await attempt_of(sessions, experiment_id)).status == "launching"
    impatient = Launcher(sessions, gateway, settings.model_copy(update={"start_deadline_s": 0}))
    assert await impatient.launch_all(lease) is False
    attempt = await attempt_of(sessions, experiment_id)
    assert attempt.end_reason == EndReason.SUBMIT_FAILED
    assert "No available agent" in attempt.message


async def test_a_foreign_job_under_the_id_ends_the_attempt_at_once(
    sessions: Sessions, lease: Lease, launcher: Launcher, ray: FakeRay
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    await run_admission(sessions, lease)
    attempt = await attempt_of(sessions, experiment_id)
    ray._submit({"submission_id": attempt.ray_submission_id, "metadata": {"attempt": "somebody else's"}})
    await launcher.launch_all(lease)
    assert (await attempt_of(sessions, experiment_id)).end_reason == EndReason.SUBMIT_FAILED


async def test_a_cancelled_attempt_is_not_submitted(
    sessions: Sessions, lease: Lease, launcher: Launcher, ray: FakeRay
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    await run_admission(sessions, lease)
    async with sessions.begin() as session:
        await experiments.cancel(session, experiment_id, user=await make_user(session))
    await launcher.launch_all(lease)
    assert ray.accepted == []


async def test_a_driver_that_starts_before_the_submission_is_noted_goes_on(
    sessions: Sessions, lease: Lease, launcher: Launcher, ray: FakeRay
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    await run_admission(sessions, lease)
    async with sessions.begin() as session:
        await attempts.start(session, (await session.scalars(select(Attempt))).one())
    await launcher.launch_all(lease)
    assert (await attempt_of(sessions, experiment_id)).status == "running"


async def test_a_stale_scheduler_admits_and_submits_nothing(
    sessions: Sessions, launcher: Launcher, ray: FakeRay
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    stale = await new_lease(sessions)
    current = await new_lease(sessions)
    with pytest.raises(LeaseLost):
        await run_admission(sessions, stale)
    assert (await experiment(sessions, experiment_id)).status == "queued"
    await run_admission(sessions, current)
    with pytest.raises(LeaseLost):
        await launcher.launch_all(stale)
    assert ray.accepted == []


async def test_a_lease_stolen_while_ray_is_asked_leaves_the_writing_to_the_thief(
    sessions: Sessions, launcher: Launcher, ray: FakeRay, lease: Lease
) -> None:
    await see_cluster(sessions)
    experiment_id = await queue_one(sessions)
    await run_admission(sessions, lease)

    async def steal(what: str) -> None:
        if what == "after POST /api/jobs/":
            async with sessions.begin() as session:
                await session.execute(update(SchedulerLease).values(token=SchedulerLease.token + 1))

    ray.meanwhile = steal
    with pytest.raises(LeaseLost):
        await launcher.launch_all(lease)
    assert (await attempt_of(sessions, experiment_id)).status == "launching", "nothing was written"
    await launcher.launch_all(Lease(holder="thief", token=lease.token + 1))
    assert (await attempt_of(sessions, experiment_id)).status == "submitted"
    assert len(ray.accepted) == 1


async def test_nobody_is_admitted_while_ray_is_silent(sessions: Sessions, lease: Lease) -> None:
    experiment_id = await queue_one(sessions)
    assert await run_admission(sessions, lease) == 0
    assert (await experiment(sessions, experiment_id)).waiting_reason == "Ray has not been seen yet"
    await see_cluster(sessions)
    async with sessions.begin() as session:
        await record_silence(session, "connection refused", await database_now(session))
    assert await run_admission(sessions, lease) == 0
    reason = (await experiment(sessions, experiment_id)).waiting_reason
    assert reason is not None and reason.startswith("Ray does not answer since ")


async def test_what_unreleased_attempts_hold_is_taken(sessions: Sessions, lease: Lease) -> None:
    await see_cluster(sessions, num_cpus=1.5)
    first, second = await queue_one(sessions), await queue_one(sessions)
    assert await run_admission(sessions, lease) == 1
    assert (await experiment(sessions, second)).waiting_reason == "needs 1 CPU; what becomes free is kept for it"
    async with sessions.begin() as session:
        attempt = await session.get_one(Attempt, (await attempt_of(sessions, first)).id)
        await attempts.end_attempt(session, attempt, EndReason.STAGE_FAILED, "boom", {})
    assert await run_admission(sessions, lease) == 0, "ended, but not seen free"
    async with sessions.begin() as session:
        await attempts.release(session, attempt, await database_now(session))
    assert await run_admission(sessions, lease) == 1
