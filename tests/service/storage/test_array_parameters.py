"""Arrays in PostgreSQL's binary form come back as they went."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import text

from service.storage.array_parameters import BigInts, Doubles, Times
from service.storage.database import Sessions

pytestmark = pytest.mark.anyio
HERE = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("parameter", "kind"),
    [
        (BigInts([0, -1, 2**53, -(2**63)]), "bigint"),
        (BigInts([]), "bigint"),
        (Doubles([0.1, -0.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf")]), "float8"),
        (Times([HERE, HERE, datetime(1999, 12, 31, tzinfo=UTC)]), "timestamptz"),
        (Times([]), "timestamptz"),
    ],
)
async def test_what_goes_in_comes_out(sessions: Sessions, parameter: Any, kind: str) -> None:
    async with sessions() as session:
        found = await session.scalar(text(f"SELECT CAST(:array AS {kind}[])"), {"array": parameter})
    # NaN is equal to nothing, not even itself.
    assert found == parameter.items or list(map(str, found)) == list(map(str, parameter.items))


async def test_a_time_without_a_zone_is_utc(sessions: Sessions) -> None:
    async with sessions() as session:
        bare = Times([datetime(2026, 1, 1)])
        found = await session.scalar(text("SELECT CAST(:array AS timestamptz[])"), {"array": bare})
    assert found == [datetime(2026, 1, 1, tzinfo=UTC)]
