"""The whole stack as a user starts it, with a Ray job whose children leave its session."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.embedded.data_folder import DataFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
JOB = "setsid sleep 7201 & setsid nohup sleep 7202 & exec sleep 7203"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A stack that has said that it is ready."""

    process: subprocess.Popen[bytes]
    endpoint: dict[str, Any]

    @property
    def token(self) -> str:
        return Path(self.endpoint["token_file"]).read_text()

    def get(self, path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.get(self.endpoint["url"] + path, headers=headers, timeout=10)

    def ray(self, method: str, path: str, *, token: bool = True, json: dict[str, str] | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {Path(self.endpoint['ray_token_file']).read_text()}"} if token else {}
        return httpx.request(method, self.endpoint["ray_dashboard_url"] + path, headers=headers, json=json, timeout=20)

    def start_job(self) -> None:
        """A Ray job with grandchildren in sessions of their own; returns when they run."""
        submitted = self.ray("POST", "/api/jobs/", json={"entrypoint": JOB})
        assert submitted.status_code == 200, submitted.text
        until(lambda: {"7201", "7202", "7203"} <= {part for one in self.family() for part in arguments(one)})

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def keeper(self) -> psutil.Process:
        return psutil.Process(self.process.pid).children()[0]


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def until(condition: Callable[[], bool], deadline_s: float = 60.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.2)


def start(data: Path) -> Running:
    log = data.parent / "up.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.embedded", "--data", str(data), "--num-cpus", "2"],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        file = data / "endpoint.json"
        return file.exists() and json.loads(file.read_text())["pid"] == process.pid

    until(ready, deadline_s=240)
    return Running(process=process, endpoint=json.loads((data / "endpoint.json").read_text()))


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    # Not pytest's folder: PostgreSQL's own user, which root needs, may not enter that one.
    folder = Path(tempfile.mkdtemp(prefix="sedray-stack-"))
    yield folder / "data"
    shutil.rmtree(DataFolder(root=(folder / "data").resolve()).short_folder(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def started() -> Iterator[list[Running]]:
    stacks: list[Running] = []
    yield stacks
    for running in stacks:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGINT)
        running.process.wait(60)


@pytest.fixture
def stack(data: Path, started: list[Running]) -> Running:
    """The stack of the test before, if that left it up: a start takes many seconds."""
    if not started or started[-1].process.poll() is not None:
        started.append(start(data))
    return started[-1]


def test_ready_means_served_authenticated_and_closed_to_others(stack: Running, data: Path) -> None:
    assert stack.get("/readyz").json() == {"database": "ok", "migrations": "ok", "scheduler": "ok"}
    assert stack.get("/api/v1/me").json()["user"] == "local"
    assert stack.ray("GET", "/api/jobs/", token=False).status_code == 401
    assert oct((data / "secrets").stat().st_mode)[-3:] == "700"
    second = subprocess.run(
        [sys.executable, "-m", "service.embedded", "--data", str(data)], capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 1
    assert str(stack.process.pid) in second.stderr and stack.endpoint["url"] in second.stderr


def test_killed_services_come_back_at_the_same_addresses(stack: Running) -> None:
    for module in ("api.server", "service.scheduler.main"):
        victim = next(one for one in stack.family() if module in arguments(one))
        victim.kill()
        until(lambda module=module, pid=victim.pid: any(module in arguments(o) for o in stack.family() if o.pid != pid))
    gcs = next(one for one in stack.family() if any(part.endswith("gcs_server") for part in arguments(one)))
    gcs.kill()
    until(lambda: not gcs.is_running())
    until(lambda: answers(stack), deadline_s=120)


def answers(stack: Running) -> bool:
    try:
        return stack.ray("GET", "/api/jobs/").status_code == 200 and stack.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("kill", "number"),
    [("front", signal.SIGINT), ("front", signal.SIGTERM), ("front", signal.SIGKILL), ("keeper", signal.SIGKILL)],
)
def test_whatever_ends_the_stack_no_process_is_left(stack: Running, kill: str, number: signal.Signals) -> None:
    stack.start_job()
    family = stack.family()
    victim = stack.keeper() if kill == "keeper" else stack.process
    victim.send_signal(number)
    stack.process.wait(60)
    assert psutil.wait_procs(family, timeout=45)[1] == []


def test_a_start_after_a_kill_finds_everything_again(data: Path) -> None:
    first = start(data)
    token, family = first.token, first.family()
    first.keeper().suspend()  # it must not shut anything down in order
    first.process.kill()
    first.process.wait(10)
    psutil.Process(family[0].pid).kill()
    second = start(data)
    try:
        assert (second.token, second.endpoint["url"]) == (token, first.endpoint["url"])
        assert second.get("/api/v1/me").json()["user"] == "local"
        assert psutil.wait_procs(family, timeout=10)[1] == []
    finally:
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(60) == 0


def test_a_command_that_holds_a_stack_takes_it_along(data: Path) -> None:
    program = (
        "import pathlib, sys; from api.cli.stack import running_stack\n"
        "with running_stack(pathlib.Path(sys.argv[1]), start_deadline_s=240) as stack: stack.wait()"
    )
    command = subprocess.Popen([sys.executable, "-c", program, str(data)], stderr=subprocess.DEVNULL)
    until(lambda: holds_ready_stack(command, data), deadline_s=240)
    family = psutil.Process(command.pid).children(recursive=True)
    command.terminate()
    command.wait(60)
    until(lambda: not any(one.is_running() for one in family), deadline_s=20)


def holds_ready_stack(command: subprocess.Popen[bytes], data: Path) -> bool:
    children = {child.pid for child in psutil.Process(command.pid).children()}
    file = data / "endpoint.json"
    return file.exists() and json.loads(file.read_text())["pid"] in children
