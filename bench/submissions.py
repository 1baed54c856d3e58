"""Submissions: how many a second with the whole validation, and what fifty at once with one key come to."""

import asyncio
import json
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import func, select

from bench.plain_http import Call, Connection, run_clients
from bench.servers import Service
from service import auth
from service.storage.database import Sessions, create_engine, create_sessions
from service.storage.identifiers import new_id
from service.storage.tables import Experiment
from service.tenancy import users

CLIENTS = 8
EXAMPLE = Path("examples/countdown/sed.yaml")


def rows(service: Service, *, count: int) -> dict[str, float]:
    """Submissions a second, and experiments made by fifty equal requests at once."""
    return asyncio.run(_run(service, count))


async def _run(service: Service, count: int) -> dict[str, float]:
    engine = create_engine(service.database_url)
    sessions = create_sessions(engine)
    token = await issue_token(sessions)
    each = count // CLIENTS
    plans = [[_submission(token, new_id("key")) for _ in range(each)] for _ in range(CLIENTS)]
    await run_clients(service.urls, [plan[:1] for plan in plans])  # what is read once is read now
    took = await run_clients(service.urls, [plan[1:] for plan in plans])
    made = await _fifty_at_once(service, token, sessions)
    await engine.dispose()
    return {"submissions_per_s": CLIENTS * (each - 1) / took, "experiments_of_50_equal_requests": made}


async def issue_token(sessions: Sessions) -> str:
    """A person's token."""
    async with sessions.begin() as session:
        user = await users.create(session, None, new_id("bench"), is_admin=True)
        return (await auth.issue_token(session, user, "bench"))[1]


def example_spec(**changes: Any) -> dict[str, Any]:
    """The countdown example, its paths made absolute."""
    folder = EXAMPLE.resolve().parent
    spec: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    _resolve(spec, folder)
    return spec | changes


def _resolve(node: Any, folder: Path) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "path" and isinstance(value, str):
                node[key] = str(folder / value)
            else:
                _resolve(value, folder)


def _submission(token: str, key: str) -> Call:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": key}
    return Call(path="/api/v1/experiments", body=json.dumps(example_spec()).encode(), headers=headers)


async def _fifty_at_once(service: Service, token: str, sessions: Sessions) -> int:
    key = new_id("key")
    call = _submission(token, key)
    connections = [await Connection.open(service.urls[number % len(service.urls)]) for number in range(50)]
    answers = await asyncio.gather(*(connection.call(call) for connection in connections))
    assert {status for status, _ in answers} <= {200, 201}, answers
    for connection in connections:
        await connection.close()
    async with sessions() as session:
        made = select(func.count()).select_from(Experiment).where(Experiment.idempotency_key == key)
        return await session.scalar(made) or 0
