"""The scheduler's process sends what is in the outbox, whether or not Ray answers."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.storage.database import Sessions
from service.webhooks import registry
from tests.factories import find_project, make_experiment, make_user
from tests.service.webhooks.receiver import receiving

pytestmark = pytest.mark.anyio


async def test_the_scheduler_process_sends(sessions: Sessions, database_url: str, tmp_path: Path) -> None:
    for name in ("key", "ray-token"):
        (tmp_path / name).write_text("k" * 64)
    async with receiving() as receiver:
        host = f"127.0.0.1:{receiver.port}"
        environment = {
            **os.environ,
            "SEDRAY_DATABASE_URL": database_url,
            "SEDRAY_SECRET_KEY_FILE": str(tmp_path / "key"),
            "SEDRAY_OUTPUT_ROOT": str(tmp_path),
            "SEDRAY_RAY_DASHBOARD_URL": "http://127.0.0.1:9",
            "SEDRAY_RAY_TOKEN_FILE": str(tmp_path / "ray-token"),
            "SEDRAY_SERVICE_URL": "http://127.0.0.1:9",
            "SEDRAY_WORKER_DIR": str(tmp_path / "workers"),
            "SEDRAY_WEBHOOK_ALLOWED_HOSTS": f'["{host}"]',
        }
        async with sessions.begin() as session:
            await registry.create(
                session,
                await make_user(session),
                await find_project(session),
                name="chat",
                url=f"http://{host}/in",
                events=["experiment.queued"],
                allowed_hosts=[host],
            )
            await make_experiment(session)
        scheduler = subprocess.Popen([sys.executable, "-m", "service.scheduler.main"], env=environment)
        try:
            async with asyncio.timeout(60):
                while not receiver.received:
                    await asyncio.sleep(0.05)
            scheduler.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(scheduler.wait, 20) == 0
        finally:
            scheduler.kill()
            scheduler.wait()
