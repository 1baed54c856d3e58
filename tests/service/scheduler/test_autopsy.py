"""What is gathered about an end before anything is stopped, through a whole pass of the reconciler."""

import pytest

from service import certificates
from service.contract.certificates import DeathCertificate
from service.contract.status import EndReason
from service.scheduler.lease import Lease
from service.scheduler.ray_gateway import RayDashboard
from service.settings import SchedulerSettings
from service.storage.database import Sessions
from tests.fakes import FakeRay
from tests.service.scheduler.test_reconcile import Stage

pytestmark = pytest.mark.anyio


@pytest.fixture
def stage(sessions: Sessions, gateway: RayDashboard, settings: SchedulerSettings, lease: Lease) -> Stage:
    return Stage(sessions, gateway, settings, lease)


async def certificate(stage: Stage) -> DeathCertificate:
    attempt = await stage.attempt()
    async with stage.sessions() as session:
        return await certificates.read(session, attempt.experiment_id, attempt.number)


async def test_of_a_hung_run_every_living_process_is_looked_at_before_it_is_stopped(stage: Stage, ray: FakeRay) -> None:
    await stage.api_is_up()
    job = await stage.submit()
    await stage.start()
    ray.set_job(job, "RUNNING", driver_info={"id": "01", "node_ip_address": "127.0.0.1", "pid": "41"})
    ray.add_actor(job, "Trainer", 42)
    ray.add_actor(job, "RolloutEngine", 43)
    ray.add_actor(job, "Trainer", 44, state="DEAD")
    ray.stacks = {41: "driver waits", 42: "trainer waits"}
    await stage.pass_time(91)
    await stage.reconcile()
    found = {stack.process: stack.text for stack in (await certificate(stage)).stacks}
    assert found == {
        "driver": "driver waits",
        "Trainer:42": "trainer waits",
        "RolloutEngine:43": "not to be had: no such process",
    }
    assert ray.stops == [job]


async def test_a_driver_that_died_with_rays_word_about_memory_is_not_tried_again(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit()
    await stage.start()
    death = {"oom_context": {"error_message": "Task was killed due to the node running low on memory."}}
    ray.add_actor(job, "Trainer", 42, state="DEAD", death_cause=death)
    ray.set_job(job, "FAILED", message="Job entrypoint command failed", driver_exit_code=-9)
    await stage.reconcile()
    assert (await stage.experiment()).end_reason == EndReason.OUT_OF_MEMORY
    found = await certificate(stage)
    assert ([sign.kind for sign in found.out_of_memory], found.signal) == (["ray"], "SIGKILL")
    assert "Trainer:42" in found.dead_actors[0]


async def test_release_adds_the_exit_code_and_lays_the_certificate_down(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit()
    await stage.start()
    await stage.finish(reason=EndReason.STAGE_FAILED)
    ray.set_job(job, "FAILED", driver_exit_code=1)
    assert (await certificate(stage)).issued_at is None
    await stage.reconcile()
    found = await certificate(stage)
    assert found.issued_at is not None
    assert (found.reason, found.exit_code) == ("stage_failed", 1)


async def test_a_ray_that_does_not_answer_delays_no_verdict(stage: Stage, ray: FakeRay) -> None:
    job = await stage.submit()
    await stage.start()
    ray.set_job(job, "FAILED", driver_exit_code=1)

    async def go_down(what: str) -> None:
        ray.down = what == f"after GET /api/jobs/{job}"

    ray.meanwhile = go_down
    await stage.reconcile()
    assert (await stage.attempt()).end_reason == EndReason.RAY_JOB_FAILED
