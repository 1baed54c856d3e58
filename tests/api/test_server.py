"""The API as the process that it is."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service import auth
from service.settings import ApiSettings
from service.storage.database import Sessions
from tests.factories import make_experiment, make_user

pytestmark = pytest.mark.anyio
START_DEADLINE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(settings: ApiSettings, log: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m api.server`, ready; killed at the end if it still runs."""
    environment = {
        **os.environ,
        "SEDRAY_DATABASE_URL": settings.database_url.get_secret_value(),
        "SEDRAY_SECRET_KEY_FILE": str(settings.secret_key_file),
        "SEDRAY_OUTPUT_ROOT": settings.output_root,
        "SEDRAY_PORT": str(port),
    }
    with (
        log.open("wb") as stderr,
        subprocess.Popen([sys.executable, "-m", "api.server"], env=environment, stderr=stderr) as process,
    ):
        try:
            wait_until_ready(process, port)
            yield process
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"the server is not ready; exit status {process.poll()}")


async def test_sigterm_ends_live_streams_and_the_process(
    settings: ApiSettings, sessions: Sessions, tmp_path: Path
) -> None:
    async with sessions.begin() as session:
        user = await make_user(session)
        _, token = await auth.issue_token(session, user, "tests")
        experiment = await make_experiment(session, user=user)
    log, port = tmp_path / "log", free_port()
    headers = {"Authorization": f"Bearer {token}"}
    url = f"http://127.0.0.1:{port}/api/v1/experiments/{experiment.id}/stream?last_event_id=0.0.0"
    with server(settings, log, port) as process, httpx.stream("GET", url, headers=headers, timeout=30.0) as stream:
        lines = stream.iter_lines()
        assert next(lines)
        process.send_signal(signal.SIGTERM)
        list(lines)
        assert process.wait(timeout=20.0) == 0
    text = log.read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    [served] = [entry for entry in entries if entry["event"] == "request served"]
    assert (served["method"], served["status"]) == ("GET", 200)
    assert served["path"].endswith("/stream") and token not in text and "last_event_id" not in text


def test_missing_settings_are_named_without_their_values(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "SEDRAY_DATABASE_URL": "postgresql+psycopg://u:hidden@h/d"}
    ended = subprocess.run(
        [sys.executable, "-m", "api.server"], env=environment, capture_output=True, text=True, timeout=START_DEADLINE_S
    )
    assert ended.returncode == 1 and "hidden" not in ended.stderr
    assert "SEDRAY_SECRET_KEY_FILE: Field required" in ended.stderr and "Traceback" not in ended.stderr
