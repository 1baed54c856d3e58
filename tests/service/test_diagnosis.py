"""Each check of the doctor, well and not well."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from service.diagnosis import Check, diagnose
from service.settings import ServiceSettings
from service.storage.database import Sessions
from service.storage.processes import record_life
from service.storage.tables import ClusterState
from tests.factories import make_user

pytestmark = pytest.mark.anyio
HEAD = "of this version"


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o400)
    root = tmp_path / "outputs"
    return ServiceSettings(database_url=SecretStr("unused"), secret_key_file=key, output_root=str(root))


async def found(sessions: Sessions, settings: ServiceSettings) -> dict[str, Check]:
    return {check.name: check for check in await diagnose(sessions, settings, HEAD)}


async def make_well(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": HEAD})
        await record_life(session, "scheduler", "one", detail={"leads": True, "version": "1"})
        await record_life(session, "api", "one", detail={"version": "1"})
        await make_user(session, "root", role=None, is_admin=True)
        now = datetime.now(UTC)
        session.add(ClusterState(id=1, observed_at=now, reachable=True, num_cpus=4, num_gpus=0, message="1 node"))


async def test_all_is_well(sessions: Sessions, settings: ServiceSettings) -> None:
    await make_well(sessions)
    checks = await found(sessions, settings)
    assert [name for name, check in checks.items() if check.verdict == "fault"] == []
    assert list(checks) == [
        *("database", "migrations", "scheduler", "ray", "auth", "storage", "disk", "versions", "clock"),
    ]


async def test_a_bare_service_says_what_to_do(sessions: Sessions, settings: ServiceSettings) -> None:
    checks = await found(sessions, settings)
    faults = {name for name, check in checks.items() if check.verdict == "fault"}
    assert faults == {"migrations", "scheduler", "ray", "auth"}
    assert all(checks[name].what_to_do for name in faults)


async def test_an_old_sight_of_ray_an_open_key_and_mixed_versions_are_noticed(
    sessions: Sessions, settings: ServiceSettings
) -> None:
    await make_well(sessions)
    settings.secret_key_file.chmod(0o644)
    async with sessions.begin() as session:
        await record_life(session, "api", "two", detail={"version": "2"})
        state = await session.get_one(ClusterState, 1)
        state.observed_at -= timedelta(minutes=5)
    checks = await found(sessions, settings)
    assert {name: checks[name].verdict for name in ("ray", "auth", "versions")} == {
        "ray": "fault",
        "auth": "warning",
        "versions": "warning",
    }


async def test_a_storage_that_cannot_be_written_is_a_fault(
    sessions: Sessions, settings: ServiceSettings, tmp_path: Path
) -> None:
    (tmp_path / "outputs").write_text("no folder")
    checks = await found(sessions, settings)
    assert checks["storage"].verdict == "fault"
