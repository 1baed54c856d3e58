"""Two real scheduler processes on a real database: one leads, and the other takes over from one that is killed."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from service.storage.database import libpq_url

TAKEOVER_S = 15


@contextmanager
def scheduler(database_url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose Ray does not answer: leading needs none."""
    environment = os.environ | {
        "SEDRAY_DATABASE_URL": database_url,
        "SEDRAY_SECRET_KEY_FILE": str(folder / "key"),
        "SEDRAY_OUTPUT_ROOT": str(folder / "output"),
        "SEDRAY_RAY_DASHBOARD_URL": "http://127.0.0.1:9",
        "SEDRAY_RAY_TOKEN_FILE": str(folder / "ray_token"),
        "SEDRAY_SERVICE_URL": "http://127.0.0.1:9",
        "SEDRAY_WORKER_DIR": str(folder / "workers"),
    }
    process = subprocess.Popen([sys.executable, "-m", "service.scheduler.main"], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def leader(connection: psycopg.Connection[tuple[str, int]]) -> tuple[str, int] | None:
    return connection.execute(
        "SELECT holder, token FROM scheduler_lease WHERE expires_at > clock_timestamp()"
    ).fetchone()


def test_a_standby_leads_within_seconds_of_a_kill(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(secrets.token_bytes(32))
    (tmp_path / "ray_token").write_text("none")
    url = libpq_url(database_url)
    with ExitStack() as stack:
        connection: psycopg.Connection[tuple[str, int]] = stack.enter_context(psycopg.connect(url, autocommit=True))
        processes = {}
        for _ in range(2):
            process = stack.enter_context(scheduler(database_url, tmp_path))
            processes[process.pid] = process
        while connection.execute("SELECT count(*) FROM service_processes").fetchone() != (2,):
            time.sleep(0.2)
        first = leader(connection)
        assert first is not None
        killed = int(first[0].split(":")[1])
        processes[killed].send_signal(signal.SIGKILL)
        began = time.monotonic()
        while (second := leader(connection)) in (first, None):
            assert time.monotonic() - began < TAKEOVER_S, "the standby did not take over in time"
            time.sleep(0.2)
        assert second is not None and second[1] == first[1] + 1
        assert int(second[0].split(":")[1]) in set(processes) - {killed}
