"""The gateway and the whole process against a real Ray head with token authentication."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import select

from service import experiments
from service.errors import RayUnreachable
from service.scheduler.autopsy import examine
from service.scheduler.ray_gateway import RayDashboard
from service.scheduler.ray_jobs import ForeignJob, RayJob, RayJobRequest, RayJobStatus
from service.scheduler.sweeping import Sweeper, Swept
from service.storage.database import Sessions
from service.storage.tables import Attempt, Experiment
from tests.factories import make_experiment, make_user

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@dataclass(frozen=True)
class Head:
    """A running head."""

    dashboard_url: str
    agent_url: str
    token_file: Path


def free_ports(count: int) -> list[int]:
    """All different: each is held until the last is found."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Two CPUs, own ports, own folder (a short one: Ray's socket paths are limited to 107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    token_file = folder / "token"
    token_file.write_text(secrets.token_hex(16))
    gcs, dashboard, agent, agent_grpc, client, metrics, raylet, objects, env = free_ports(9)
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"),
        *(
            "--node-ip-address=127.0.0.1",
            f"--port={gcs}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
        ),
        *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"),
        *(f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}", f"--node-manager-port={raylet}"),
        *(f"--object-manager-port={objects}", f"--runtime-env-agent-port={env}", "--object-store-memory=100000000"),
        *(f"--temp-dir={folder}/r", "--disable-usage-stats"),
    ]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment |= {"RAY_DASHBOARD_ENABLE_PROFILING": "1", "PATH": path}
    with (folder / "log").open("wb") as log:
        ray = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield Head(f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{agent}", token_file)
    finally:
        _end(ray)
        shutil.rmtree(folder, ignore_errors=True)


def _end(ray: subprocess.Popen[bytes]) -> None:
    """Exactly the processes that this head started."""
    family = [psutil.Process(ray.pid), *psutil.Process(ray.pid).children(recursive=True)]
    ray.terminate()
    _, alive = psutil.wait_procs(family, timeout=15)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=5)
    ray.wait(5)


@pytest.fixture
async def gateway(anyio_backend: str, head: Head) -> AsyncIterator[RayDashboard]:
    """Ready when the node has registered."""
    async with RayDashboard(head.dashboard_url, head.token_file, timeout_s=15) as client:
        await until(lambda: has_cpus(client))
        yield client


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.1)


async def has_cpus(gateway: RayDashboard) -> bool:
    try:
        return (await gateway.cluster()).num_cpus == 2.0
    except RayUnreachable:
        return False


async def job_in(gateway: RayDashboard, submission_id: str, status: RayJobStatus) -> RayJob:
    async def reached() -> bool:
        job = await gateway.get(submission_id)
        return job is not None and job.status is status

    await until(reached)
    job = await gateway.get(submission_id)
    assert job is not None
    return job


def request_for(name: str, entrypoint: str) -> RayJobRequest:
    metadata = {"experiment": "exp", "attempt": name, "spec_sha256": "abc"}
    env_vars = {"GREETING": "good day", "RAY_JOB_STOP_WAIT_TIME_S": "2"}
    return RayJobRequest(submission_id=name, entrypoint=entrypoint, env_vars=env_vars, metadata=metadata)


async def test_ray_tells_the_memory_of_its_nodes(gateway: RayDashboard) -> None:
    memory = (await gateway.cluster()).memory
    assert memory.node_bytes is not None
    assert 2**28 < memory.node_bytes < psutil.virtual_memory().total
    assert (memory.total_bytes, memory.gpu_bytes) == (memory.node_bytes, None)


async def test_a_job_runs_to_its_end_and_leaves_its_log(gateway: RayDashboard) -> None:
    await gateway.submit(request_for("greeter", "seq 300; echo $GREETING; exit 7"))
    job = await job_in(gateway, "greeter", RayJobStatus.FAILED)
    assert job.driver_exit_code == 7
    # Ray's own line about the entrypoint may come after a quick job's output.
    tail = [line for line in await gateway.logs_tail(job, 3) if "Running entrypoint" not in line]
    assert tail[-2:] == ["300", "good day"]


async def test_a_second_submission_adopts_and_a_foreign_one_is_refused(gateway: RayDashboard) -> None:
    request = request_for("twice", "sleep 60")
    await gateway.submit(request)
    await job_in(gateway, "twice", RayJobStatus.RUNNING)
    assert (await gateway.submit(request)).status is RayJobStatus.RUNNING
    with pytest.raises(ForeignJob):
        await gateway.submit(replace(request, metadata={**request.metadata, "spec_sha256": "other"}))
    await gateway.stop("twice")
    await job_in(gateway, "twice", RayJobStatus.STOPPED)
    await gateway.stop("twice")


async def test_two_submissions_at_once_make_one_job(gateway: RayDashboard) -> None:
    request = request_for("race", "true")
    jobs = await asyncio.gather(*(gateway.submit(request) for _ in range(4)))
    assert {job.submission_id for job in jobs} == {"race"}
    await job_in(gateway, "race", RayJobStatus.SUCCEEDED)


_TWO_ACTORS = """
import os, ray, sys, time
ray.init(address="auto")
@ray.remote(num_cpus=0)
class Sleeper:
    def rest(self): time.sleep(600)
    def die(self): os._exit(3)
lasting, short = Sleeper.remote(), Sleeper.remote()
resting = lasting.rest.remote()
try: ray.get(short.die.remote())
except ray.exceptions.RayActorError: print("one is gone", flush=True)
ray.get(resting)
"""


async def test_of_a_job_that_stands_still_ray_tells_actors_deaths_and_stacks(
    gateway: RayDashboard, tmp_path: Path
) -> None:
    (tmp_path / "driver.py").write_text(_TWO_ACTORS)
    await gateway.submit(request_for("hangs", f"{sys.executable} {tmp_path}/driver.py"))
    await job_in(gateway, "hangs", RayJobStatus.RUNNING)

    async def one_is_gone() -> bool:
        job = await gateway.get("hangs")
        return job is not None and "one is gone" in await gateway.logs_tail(job, 50)

    await until(one_is_gone)
    job = await gateway.get("hangs")
    assert job is not None and job.ray_job_id is not None
    evidence = await examine(gateway, job, with_stacks=True)
    await gateway.stop("hangs")
    assert len(evidence["dead_actors"]) == 1 and "Sleeper" in evidence["dead_actors"][0]
    stacks = {stack["process"].split(":")[0]: stack["text"] for stack in evidence["stacks"]}
    assert "driver.py" in stacks["driver"] and "rest" in stacks["Sleeper"], stacks


_LEAKS = """
import os, ray, subprocess, time
ray.init(address="auto", namespace="sedray-leaky")
@ray.remote(num_cpus=0)
class Leak:
    def spawn(self):  # a grandchild in a session of its own, which Ray does not end with its actor
        shell = subprocess.Popen(["setsid", "sh", "-c", "sleep 600 & echo $!"], stdout=subprocess.PIPE)
        return int(shell.stdout.readline())
leak = Leak.options(name="leak", lifetime="detached").remote()
child = ray.get(leak.spawn.remote())
group = ray.util.placement_group([{"CPU": 1}], lifetime="detached")
ray.get(group.ready())
print("left", child, flush=True)
os._exit(9)
"""


async def test_a_sweep_ends_what_a_dead_driver_has_left(gateway: RayDashboard, tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(_LEAKS)
    request = request_for("leaky", f"{sys.executable} {tmp_path}/driver.py")
    await gateway.submit(replace(request, env_vars={"SEDRAY_ATTEMPT_ID": "exp-leaky-a1"}))
    job = await job_in(gateway, "leaky", RayJobStatus.FAILED)
    assert job.ray_job_id is not None
    [told] = [line for line in await gateway.logs_tail(job, 50) if line.startswith("left ")]
    child = psutil.Process(int(told.split()[1]))
    assert child.is_running() and await gateway.placement_groups(job.ray_job_id)

    sweeper, attempt = Sweeper(gateway, sys.executable), Attempt(id="exp-leaky-a1", ray_submission_id="leaky")
    attempt.ray_job_id = job.ray_job_id
    found: list[Swept] = []

    async def swept() -> bool:
        outcome = await sweeper.step([] if found else [attempt], datetime.now(UTC))
        found.extend([outcome] if outcome else [])
        return bool(found)

    await until(swept)
    assert "sleep 600" in found[0].note("exp-leaky-a1"), found
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert await gateway.placement_groups(job.ray_job_id) == []
    assert all(actor.is_dead for actor in await gateway.actors(job.ray_job_id))


async def test_an_unknown_job(gateway: RayDashboard) -> None:
    assert await gateway.get("nobody") is None
    await gateway.stop("nobody")


async def test_without_the_token_dashboard_and_agent_refuse(gateway: RayDashboard, head: Head) -> None:
    body = {"entrypoint": "true", "submission_id": "intruder"}
    async with httpx.AsyncClient(trust_env=False) as stranger:
        dashboard = await stranger.post(f"{head.dashboard_url}/api/jobs/", json=body)
        agent = await stranger.post(f"{head.agent_url}/api/job_agent/jobs/", json=body)
    assert (dashboard.status_code, agent.status_code) == (401, 401)
    assert await gateway.get("intruder") is None


async def test_the_process_takes_an_experiment_through_ray_and_stops_within_five_seconds(
    sessions: Sessions, database_url: str, gateway: RayDashboard, head: Head, tmp_path: Path
) -> None:
    worker = tmp_path / "worker python"
    worker.write_text('#!/bin/sh\ntest -s "$SEDRAY_TOKEN_FILE" && exec sleep 300\n')
    worker.chmod(0o755)
    (tmp_path / "key").write_bytes(secrets.token_bytes(32))
    environment = os.environ | {
        "SEDRAY_DATABASE_URL": database_url,
        "SEDRAY_SECRET_KEY_FILE": str(tmp_path / "key"),
        "SEDRAY_OUTPUT_ROOT": str(tmp_path / "output"),
        "SEDRAY_RAY_DASHBOARD_URL": head.dashboard_url,
        "SEDRAY_RAY_TOKEN_FILE": str(head.token_file),
        "SEDRAY_SERVICE_URL": "http://127.0.0.1:1",
        "SEDRAY_WORKER_DIR": str(tmp_path / "workers"),
        "SEDRAY_WORKER_PYTHON": str(worker),
        "SEDRAY_RECONCILE_S": "0.5",
        "SEDRAY_CANCEL_GRACE_S": "1",
        "SEDRAY_STOP_WAIT_S": "2",
    }

    async def released() -> bool:
        async with sessions() as session:
            return await session.scalar(select(Attempt.released_at)) is not None

    async def submitted() -> bool:
        async with sessions() as session:
            return await session.scalar(select(Attempt.status)) == "submitted"

    scheduler = subprocess.Popen([sys.executable, "-m", "service.scheduler.main"], env=environment)
    try:
        async with sessions.begin() as session:
            experiment = await make_experiment(session)
        await until(submitted)
        await job_in(gateway, f"sedray-{experiment.id}-a1", RayJobStatus.RUNNING)
        async with sessions.begin() as session:
            await experiments.cancel(session, experiment.id, user=await make_user(session))
        await until(released, seconds=30)
        async with sessions() as session:
            assert (await session.get_one(Experiment, experiment.id)).status == "cancelled"
        begin = time.monotonic()
        scheduler.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(scheduler.wait, 10) == 0
        assert time.monotonic() - begin < 5
    finally:
        scheduler.kill()
        scheduler.wait()
