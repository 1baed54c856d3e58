import stat
from pathlib import Path

import pytest
from sqlalchemy import func, select

from service import auth
from service.embedded.prepare_database import LOCAL_USER, ensure_token
from service.storage.database import Sessions
from service.storage.token_tables import ApiToken

pytestmark = pytest.mark.anyio


async def test_the_first_start_issues_a_private_token_that_works(
    sessions: Sessions, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "api_token"
    await ensure_token(database_url, file)
    async with sessions() as session:
        local = await auth.authenticate(session, file.read_text())
        assert (local.name, local.governs) == (LOCAL_USER, True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_second_start_keeps_the_token(sessions: Sessions, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "api_token"
    await ensure_token(database_url, file)
    token = file.read_text()
    await ensure_token(database_url, file)
    assert file.read_text() == token
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(ApiToken)) == 1


async def test_a_token_of_another_database_is_replaced(sessions: Sessions, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "api_token"
    file.write_text("sr_of_another_database")
    await ensure_token(database_url, file)
    async with sessions() as session:
        assert (await auth.authenticate(session, file.read_text())).name == LOCAL_USER
