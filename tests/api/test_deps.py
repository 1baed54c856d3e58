"""What routes are given."""

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from api.deps import SessionDep
from tests.api.conftest import serving

pytestmark = pytest.mark.anyio


async def test_an_answer_leaves_only_after_its_transaction_is_committed(app: FastAPI) -> None:
    @app.post("/fails-at-commit", status_code=201)
    async def fail_at_commit(session: SessionDep) -> str:
        await session.execute(text("CREATE TEMP TABLE one (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        await session.execute(text("INSERT INTO one VALUES (1), (1)"))
        return "stored"

    async with serving(app) as client:
        answer: httpx.Response = await client.post("/fails-at-commit")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
