"""Stand-in commands in real processes; time is given where the supervisor takes it."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from service.embedded.supervisor import (
    LONGEST_DELAY_S,
    STEADY_AFTER_S,
    Service,
    Supervised,
    inherited_environment,
    run_once,
)

FAILS = "import sys; sys.exit(3)"
SLEEPS = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def service(tmp_path: Path, code: str, *, stop_deadline_s: float = 5.0) -> Service:
    return Service(
        name="stand-in",
        command=(sys.executable, "-S", "-c", code),
        environment=dict(os.environ),
        log=tmp_path / "stand-in.log",
        stop_deadline_s=stop_deadline_s,
    )


def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def crash(supervised: Supervised, now: float) -> None:
    until(lambda: supervised.notice_exit(now))


def test_a_crashed_service_is_due_again_after_a_growing_delay(tmp_path: Path) -> None:
    supervised = Supervised(service(tmp_path, FAILS))
    now, delays = 0.0, []
    for _ in range(6):
        supervised.start(now)
        crash(supervised, now)
        delays.append(next(half / 2 for half in range(1, 100) if supervised.is_due(now + half / 2)))
        now += 20.0
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_DELAY_S]
    assert supervised.num_crashes == 6


def test_a_service_that_lived_for_a_while_starts_again_quickly(tmp_path: Path) -> None:
    supervised = Supervised(service(tmp_path, FAILS))
    for _ in range(3):
        supervised.start(0.0)
        crash(supervised, 0.0)
    supervised.start(100.0)
    crash(supervised, 100.0 + STEADY_AFTER_S)
    assert supervised.is_due(100.0 + STEADY_AFTER_S + 0.5)


def test_each_crash_is_one_log_line_with_the_exit_code(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    supervised = Supervised(service(tmp_path, FAILS))
    supervised.start(0.0)
    crash(supervised, 1.0)
    assert not supervised.notice_exit(1.0)
    crashes = [record for record in caplog.records if record.message == "service crashed"]
    assert [vars(record)["exit_code"] for record in crashes] == [3]


def test_output_goes_to_the_log(tmp_path: Path) -> None:
    supervised = Supervised(service(tmp_path, "import sys; print('out'); sys.stderr.write('error')"))
    supervised.start(0.0)
    crash(supervised, 0.0)
    assert set(supervised.service.log.read_text().split()) == {"out", "error"}


def test_a_service_that_does_not_hear_is_killed_at_its_deadline(tmp_path: Path) -> None:
    supervised = Supervised(service(tmp_path, DEAF, stop_deadline_s=0.2))
    supervised.start(0.0)
    until(lambda: supervised.service.log.read_text() != "")
    pid = supervised.pid
    supervised.stop(lambda: False)
    assert pid is not None and not psutil.pid_exists(pid)


def test_an_urgent_stop_waits_for_nobody(tmp_path: Path) -> None:
    supervised = Supervised(service(tmp_path, DEAF, stop_deadline_s=60.0))
    supervised.start(0.0)
    until(lambda: supervised.service.log.read_text() != "")
    began = time.monotonic()
    supervised.stop(lambda: True)
    assert time.monotonic() - began < 5.0


def test_a_stop_is_no_crash(tmp_path: Path) -> None:
    supervised = Supervised(service(tmp_path, SLEEPS))
    supervised.start(0.0)
    supervised.stop(lambda: False)
    assert supervised.num_crashes == 0


def test_a_passing_process_gives_its_exit_code(tmp_path: Path) -> None:
    assert run_once(service(tmp_path, FAILS), time.sleep, deadline_s=20.0) == 3


def test_a_passing_process_does_not_outlive_its_deadline(tmp_path: Path) -> None:
    assert run_once(service(tmp_path, SLEEPS), time.sleep, deadline_s=0.2) is None
    assert not [one for one in psutil.Process().children() if SLEEPS in one.cmdline()]


def test_addresses_of_other_services_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("SEDRAY_DATABASE_URL", "postgresql+psycopg://somebody:secret@elsewhere/x")
    monkeypatch.setenv("SEDRAY_TICK_S", "2")
    environment = inherited_environment("SEDRAY_DATABASE_URL")
    assert not {"RAY_ADDRESS", "PGHOST", "SEDRAY_DATABASE_URL"} & set(environment)
    assert environment["SEDRAY_TICK_S"] == "2"


def test_secrets_in_the_environment_do_not_show_in_a_service(tmp_path: Path) -> None:
    shown = Service(name="api", command=("x",), environment={"SEDRAY_DATABASE_URL": "hush-hush"}, log=tmp_path / "log")
    assert "hush-hush" not in repr(shown)
    assert shown.stop_signal is signal.SIGTERM
