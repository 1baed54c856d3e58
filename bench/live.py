"""A point from a worker to everybody who watches, and a long series to a plot, over HTTP as workers and pages do it."""

import asyncio
import json
import statistics
import time
from datetime import UTC, datetime
from math import sin

from bench.metrics import append, make_attempt
from bench.plain_http import Call, Connection
from bench.servers import Service
from bench.submissions import issue_token
from service.auth import attempt_token
from service.contract.messages import MetricPoint, WorkerReport
from service.storage.database import create_engine, create_sessions
from service.storage.tables import Attempt

WATCHERS = 200
REPORTS = 30
_PAUSE_S = 0.5
SERIES_STEPS = 200_000


def live_ms(service: Service) -> dict[str, float]:
    """Milliseconds from before the report's request to the message at a watcher: median and 99th percentile."""
    delays = asyncio.run(_watch(service))
    cuts = statistics.quantiles(delays, n=100)
    return {"live_point_ms_p50": cuts[49], "live_point_ms_p99": cuts[98]}


def plot_ms(service: Service) -> dict[str, float]:
    """Milliseconds of a request for a plot of a series of 200,000 points: the best and the median of twenty."""
    times = asyncio.run(_plot(service))
    return {"series_200k_ms_best": min(times), "series_200k_ms_p50": statistics.median(times)}


async def _watch(service: Service) -> list[float]:
    engine = create_engine(service.database_url)
    sessions = create_sessions(engine)
    token, attempt = await issue_token(sessions), await make_attempt(sessions)
    await engine.dispose()
    sent: dict[int, float] = {}
    delays: list[float] = []
    urls = [service.urls[number % len(service.urls)] for number in range(WATCHERS)]
    watchers = [asyncio.create_task(_watcher(url, attempt, token, sent, delays)) for url in urls]
    await asyncio.sleep(5)
    connection = await Connection.open(service.urls[0])
    for step in range(1, REPORTS + 1):
        sent[step] = time.monotonic()
        status, answer = await connection.call(_report(attempt, service.secret, step))
        assert status == 200, answer
        await asyncio.sleep(_PAUSE_S)
    await asyncio.sleep(2)
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)
    assert len(delays) > 0.9 * WATCHERS * REPORTS, f"only {len(delays)} messages were seen"
    return delays


async def _watcher(url: str, attempt: Attempt, token: str, sent: dict[int, float], delays: list[float]) -> None:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    call = Call(path=f"/api/v1/experiments/{attempt.experiment_id}/stream", body=b"", headers=headers)
    writer.write(call.as_bytes(host, "GET"))
    is_metrics = False
    try:
        while line := await reader.readline():
            if line.startswith(b"event: "):
                is_metrics = line.strip() == b"event: metrics"
            elif is_metrics and line.startswith(b"data: "):
                for value in json.loads(line[6:])["values"]:
                    delays.append((time.monotonic() - sent[value["step"]]) * 1e3)
    finally:
        writer.close()


def _report(attempt: Attempt, secret: bytes, step: int) -> Call:
    point = MetricPoint(name="bench/live", step=step, value=sin(step), ts=datetime.now(UTC))
    headers = {
        "Authorization": f"Bearer {attempt_token(secret, attempt.id, attempt.number)}",
        "Content-Type": "application/json",
    }
    body = WorkerReport(seq=step, points=[point]).model_dump_json().encode()
    return Call(path=f"/api/v1/attempts/{attempt.id}/reports", body=body, headers=headers)


async def _plot(service: Service) -> list[float]:
    engine = create_engine(service.database_url)
    sessions = create_sessions(engine)
    token, attempt = await issue_token(sessions), await make_attempt(sessions)
    for start in range(0, SERIES_STEPS, 10_000):
        await append(sessions, attempt, ["bench/long"], start, 10_000)
    await engine.dispose()
    connection = await Connection.open(service.urls[0])
    path = f"/api/v1/experiments/{attempt.experiment_id}/metrics?name=bench/long&max_points=1000"
    call = Call(path=path, body=b"", headers={"Authorization": f"Bearer {token}"})
    times = []
    for _ in range(20):
        began = time.perf_counter()
        status, answer = await connection.call(call, "GET")
        times.append((time.perf_counter() - began) * 1e3)
        assert status == 200, answer
    return times
