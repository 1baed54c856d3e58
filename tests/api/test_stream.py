"""The live stream: everything once, across breaks, and an end. Over a real server, since it is about connections."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import nan
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.sse import ServerSentEvent
from sqlalchemy.event import listen
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from api.live_stream import Position, SharedLooks, follow
from service import attempts, experiments, reporting
from service.contract.messages import LogLine, MetricPoint, Progress
from service.contract.status import EndReason
from service.live_updates import LiveUpdates
from service.storage.database import Sessions, create_engine, create_sessions
from service.storage.tables import Attempt, ExperimentEvent
from tests.factories import NOW, make_attempt, make_experiment, make_report, make_run_event, make_user

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def listening(app: FastAPI, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app behind a real server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, fd=None, log_config=None, ws="none", timeout_graceful_shutdown=2))
        serving = asyncio.create_task(server.serve(sockets=[free]))
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.02)
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with httpx.AsyncClient(base_url=address, headers=headers, timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


async def messages(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """`event`, `data` and `id` of each message."""
    fields: dict[str, Any] = {}
    async for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield {**fields, "data": json.loads(fields["data"])}
            fields = {}


async def report(sessions: Sessions, attempt: Attempt, step: int) -> None:
    """What one report of a driver leaves: an event, a point, a line and the progress."""
    async with sessions.begin() as session:
        body = make_report(
            step,
            progress=Progress(stage="sft", phase="training", step=step, num_steps=9, since=NOW),
            points=[MetricPoint(name="sft/loss", step=step, value=nan, ts=NOW)],
            log_lines=[LogLine(ts=NOW, text=f"line {step}")],
            events=[make_run_event("remark", message=f"note {step}")],
        )
        await reporting.take_report(session, attempt, body)


async def end(sessions: Sessions, attempt: Attempt) -> None:
    async with sessions.begin() as session:
        await attempts.end_attempt(session, attempt, EndReason.STAGE_FAILED, "broken", {})


async def start_attempt(sessions: Sessions) -> Attempt:
    async with sessions.begin() as session:
        return await make_attempt(session)


def notes(received: list[dict[str, Any]]) -> list[str]:
    return [message["data"]["message"] for message in received if message["event"] == "event"]


async def test_a_watcher_hears_everything_and_the_end(app: FastAPI, token: str, sessions: Sessions) -> None:
    attempt = await start_attempt(sessions)
    received: list[dict[str, Any]] = []
    url = f"/api/v1/experiments/{attempt.experiment_id}/stream"
    async with listening(app, token) as client, client.stream("GET", url) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for message in messages(response.aiter_lines()):
            received.append(message)
            if message["event"] == "progress" and len(notes(received)) < 10:
                step = 1 + sum(note.startswith("note") for note in notes(received))
                await (report(sessions, attempt, step) if step <= 3 else end(sessions, attempt))
    assert [note for note in notes(received) if note.startswith("note")] == ["note 1", "note 2", "note 3"]
    values = [message["data"]["values"] for message in received if message["event"] == "metrics"]
    assert [{"name": "sft/loss", "step": step, "value": "NaN"} for step in (1, 2, 3)] == [only for [only] in values]
    assert received[-1]["event"] == "end"
    assert received[-1]["data"] == {"status": "failed", "end_reason": "stage_failed"}
    steps = [message["data"]["step"] for message in received if message["event"] == "progress" and message["data"]]
    assert steps == [1, 2, 3]


async def test_a_broken_watch_resumes_without_loss_or_repetition(app: FastAPI, token: str, sessions: Sessions) -> None:
    attempt = await start_attempt(sessions)
    for step in range(1, 6):
        await report(sessions, attempt, step)
    await end(sessions, attempt)
    whole: list[dict[str, Any]] = []
    last_id = ""
    async with listening(app, token) as client:
        while not whole or whole[-1]["event"] != "end":
            headers = {"Last-Event-ID": last_id} if last_id else {}
            url = f"/api/v1/experiments/{attempt.experiment_id}/stream"
            async with client.stream("GET", url, headers=headers) as response:
                async for message in messages(response.aiter_lines()):
                    if message["event"] == "progress":
                        continue  # no cursor: it is told at each connection
                    whole.append(message)
                    last_id = message["id"]
                    break  # the connection breaks after each message
    async with sessions() as session:
        stored = await experiments.events_after(session, attempt.experiment_id, after=0, limit=100)
    assert notes(whole) == [event.message for event in stored]
    assert [message["event"] for message in whole[len(stored) :]] == ["metrics", "logs", "end"]


async def test_no_connection_is_held_while_waiting(
    app: FastAPI, token: str, sessions: Sessions, engine: AsyncEngine
) -> None:
    attempt = await start_attempt(sessions)
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    url = f"/api/v1/experiments/{attempt.experiment_id}/stream"
    async with listening(app, token) as client, client.stream("GET", url) as response:
        async for message in messages(response.aiter_lines()):
            if message["event"] == "progress":
                break
        async with asyncio.timeout(10):
            while pool.checkedout():
                await asyncio.sleep(0.01)


async def collect(stream: AsyncIterator[ServerSentEvent]) -> list[ServerSentEvent]:
    return [message async for message in stream]


async def test_a_finished_experiment_is_told_and_ended_at_once(sessions: Sessions, database_url: str) -> None:
    async with sessions.begin() as session:
        user = await make_user(session)
        experiment = await make_experiment(session, user=user)
        for number in range(450):  # more than one look takes
            session.add(ExperimentEvent(experiment_id=experiment.id, kind="note", message=f"note {number}\u2028"))
        await session.flush()
        await experiments.cancel(session, experiment.id, user=user)
    told = await collect(follow(SharedLooks(sessions), LiveUpdates(database_url), experiment.id, Position()))
    data = [json.loads(message.raw_data or "") for message in told if message.event == "event"]
    assert [one["message"] for one in data if one["kind"] == "note"] == [f"note {n}\u2028" for n in range(450)]
    assert all((message.raw_data or "").isascii() for message in told)
    assert [message.event for message in told if message.event != "event"] == ["progress", "end"]
    again = await collect(
        follow(SharedLooks(sessions), LiveUpdates(database_url), experiment.id, Position.parse(told[-1].id or ""))
    )
    assert [message.event for message in again] == ["progress", "end"]


async def test_a_stream_closes_after_its_time(sessions: Sessions, database_url: str) -> None:
    attempt = await start_attempt(sessions)
    live_updates = LiveUpdates(database_url, poll_s=0.05)
    told = await collect(
        follow(SharedLooks(sessions), live_updates, attempt.experiment_id, Position(), closes_after_s=0.1)
    )
    assert told[-1].event == "progress"
    assert live_updates.watched() == []


async def test_a_stream_ends_when_the_database_does_not_answer(database_url: str) -> None:
    nobody = create_engine("postgresql+psycopg://postgres@/none?host=/nonexistent")
    assert (
        await collect(follow(SharedLooks(create_sessions(nobody)), LiveUpdates(database_url), "exp-a", Position()))
        == []
    )
    await nobody.dispose()


@pytest.mark.parametrize("text_", ["", "1.2", "a.b.c", "1.2.3.4", "-1.2.3", "١.٢.٣"])
def test_a_foreign_id_means_the_beginning(text_: str) -> None:
    assert Position.parse(text_) == Position()


async def test_many_who_stand_at_one_place_look_once(sessions: Sessions, engine: AsyncEngine) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
    await report(sessions, attempt, 1)
    looks, statements = SharedLooks(sessions), 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    listen(engine.sync_engine, "before_cursor_execute", count)
    await looks.look(attempt.experiment_id, Position(), 1)
    alone = statements
    found = await asyncio.gather(*(looks.look(attempt.experiment_id, Position(), 1) for _ in range(50)))
    assert statements == 2 * alone
    assert all(one is found[0] for one in found) and found[0] is not None
    await looks.look(attempt.experiment_id, Position(), 2)
    assert statements == 3 * alone, "what was hinted since is looked for anew"
