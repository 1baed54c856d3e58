"""Front and keeper around stand-in services; one of them leaves a grandchild in a session of its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

STAND_IN_STACK = """
import os, sys
from pathlib import Path
from service.embedded.guard import StopRequested, run_guarded
from service.embedded.supervisor import Service, Supervisor

SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(120)"]
FORKS = f"import subprocess, time; subprocess.Popen({SLEEPER!r}, start_new_session=True); time.sleep(120)"
CRASHES = f"import subprocess; subprocess.Popen({SLEEPER!r}, start_new_session=True)"

def body(stop):
    folder = Path(sys.argv[1])
    supervisor = Supervisor()
    for name, code in {"plain": "import time; time.sleep(120)", "forks": FORKS, "crashes": CRASHES}.items():
        supervisor.add(Service(
            name=name, command=(sys.executable, "-S", "-c", code), environment=dict(os.environ),
            log=folder / name, stop_deadline_s=3.0, leaves_orphans=name == "forks",
        ))
    ticks = 0
    try:
        while True:
            supervisor.tick()
            ticks += 1
            if ticks == 10:
                (folder / "ready").touch()
            stop.check(0.05)
    except StopRequested:
        return 7
    finally:
        supervisor.stop(["plain", "forks", "crashes"], lambda: stop.urgent)

sys.exit(run_guarded(body))
"""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", STAND_IN_STACK, str(tmp_path)])
    try:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            psutil.wait_procs([], timeout=0.05)
        yield process
    finally:
        for left in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
            left.kill()
        process.kill()
        process.wait()


def family(front: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = psutil.Process(front.pid).children(recursive=True)
    assert len(found) >= 5, "keeper, two living services, and sleepers in sessions of their own"
    return found


def alive(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=timeout_s)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_by_signal_leaves_no_process(front: subprocess.Popen[bytes], number: signal.Signals) -> None:
    processes = family(front)
    front.send_signal(number)
    assert front.wait(20) == 7
    assert alive(processes, 0.5) == []


def test_a_killed_front_leaves_no_process(front: subprocess.Popen[bytes]) -> None:
    processes = family(front)
    front.kill()
    assert alive(processes, 20) == []


def test_a_killed_keeper_leaves_no_process(front: subprocess.Popen[bytes]) -> None:
    processes = family(front)
    psutil.Process(front.pid).children()[0].kill()
    assert front.wait(20) == 128 + signal.SIGKILL
    assert alive(processes, 0.5) == []


def test_services_hear_at_once_when_front_and_keeper_are_killed_together(front: subprocess.Popen[bytes]) -> None:
    keeper = psutil.Process(front.pid).children()[0]
    services = keeper.children()
    plain = [one for one in services if one.cmdline()[-1] == "import time; time.sleep(120)"][:1]
    keeper.suspend()
    sleepers = [one for one in keeper.children(recursive=True) if one.pid != plain[0].pid]
    front.kill()
    keeper.kill()
    try:
        assert alive(plain, 10) == []
    finally:
        for left in sleepers:
            if left.is_running():
                left.kill()
