"""A scheduler's surroundings: a fake Ray behind the real client, a real database, and the lease."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.scheduler.lease import Lease, acquire_lease
from service.scheduler.ray_gateway import RayDashboard
from service.settings import SchedulerSettings
from service.storage.database import Sessions
from tests.fakes import TOKEN, FakeRay


@pytest.fixture
def ray() -> FakeRay:
    """A cluster of two CPUs."""
    return FakeRay()


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> SchedulerSettings:
    """Settings of a scheduler whose files lie in the test's folder."""
    (tmp_path / "secret").write_bytes(b"k" * 32)
    (tmp_path / "ray_token").write_text(TOKEN + "\n")
    return SchedulerSettings(
        database_url=SecretStr(database_url),
        secret_key_file=tmp_path / "secret",
        output_root=str(tmp_path / "output"),
        ray_dashboard_url="http://ray.test",
        ray_token_file=tmp_path / "ray_token",
        service_url="http://service.test:8700",
        worker_dir=tmp_path / "workers",
        worker_python="/opt/worker env/bin/python",
        tick_s=0.05,
        reconcile_s=0.05,
        ray_timeout_s=2.0,
        lease_ttl_s=1.5,
    )


@pytest.fixture
async def gateway(anyio_backend: str, ray: FakeRay, settings: SchedulerSettings) -> AsyncIterator[RayDashboard]:
    """The real client of the fake Ray."""
    async with RayDashboard(
        settings.ray_dashboard_url, settings.ray_token_file, timeout_s=2.0, transport=ray
    ) as client:
        yield client


@pytest.fixture
async def lease(anyio_backend: str, sessions: Sessions) -> Lease:
    """Held for the whole test."""
    async with sessions.begin() as session:
        acquired = await acquire_lease(session, "test", ttl_s=600)
    assert acquired is not None
    return acquired
