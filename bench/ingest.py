"""Metric points into the service and into MLflow's tracking server, on the same PostgreSQL: rate and bytes.

Sixteen clients, 1,000 points a call (10 metrics, 100 steps each), every client a run of its own. What arrived is
counted in the database. Bytes are the tables' with their indexes, after VACUUM, once the runs have ended.
"""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from math import sin
from pathlib import Path
from urllib.request import Request, urlopen

from sqlalchemy import update

from bench.metrics import make_attempt
from bench.plain_http import Call, run_clients
from bench.rows import Row
from bench.servers import Database, Service, mlflow
from service import metric_store
from service.auth import attempt_token
from service.contract.messages import MetricColumns, WorkerReport
from service.storage.database import create_engine, create_sessions
from service.storage.tables import Attempt

CLIENTS = 16
METRICS, STEPS = 10, 100
POINTS = METRICS * STEPS
_TRIES = 60
_OURS = ("metric_series", "metric_tail", "metric_chunks", "metric_levels")
_PEERS = ("metrics", "latest_metrics")


def rows(database: Database, service: Service, python: Path, *, calls: int, peer_calls: int) -> dict[str, Row]:
    """Both rows; `calls` of each client to the service, `peer_calls` to MLflow."""
    our_rate, our_bytes = asyncio.run(_ours(database, service, calls))
    with mlflow(database, python) as url:
        peer_rate, peer_bytes = _peers(database, url, peer_calls)
    return {
        "ingest_points_per_s_vs_mlflow": Row(ours=our_rate, peer=peer_rate, unit="points/s"),
        "bytes_per_point_vs_mlflow": Row(ours=our_bytes, peer=peer_bytes, unit="bytes/point"),
    }


async def _ours(database: Database, service: Service, calls: int) -> tuple[float, float]:
    engine = create_engine(service.database_url)
    sessions = create_sessions(engine)
    attempts = [await make_attempt(sessions) for _ in range(CLIENTS)]
    plans = [[_report(attempt, service.secret, number) for number in range(calls)] for attempt in attempts]
    took = await run_clients(service.urls, plans)
    stored = _count(database, "sedray", "SELECT sum(num_points) FROM metric_series")
    assert stored == CLIENTS * calls * POINTS, f"{stored} points arrived"
    async with sessions.begin() as session:
        ended = {"status": "ended", "end_reason": "completed", "ended_at": datetime.now(UTC) - timedelta(hours=1)}
        await session.execute(update(Attempt).values(ended))
    async with sessions.begin() as session:
        await metric_store.fold_finished(session, ended_for=timedelta(0), most=10_000)
    await engine.dispose()
    return stored / took, _bytes(database, "sedray", _OURS) / stored


def _report(attempt: Attempt, secret: bytes, number: int) -> Call:
    now = datetime.now(UTC)
    steps = list(range(number * STEPS, (number + 1) * STEPS))
    values = [sin(step) for step in steps]
    series = [
        MetricColumns(name=f"bench/{metric}", steps=steps, ts=[now] * STEPS, values=values) for metric in range(METRICS)
    ]
    headers = {
        "Authorization": f"Bearer {attempt_token(secret, attempt.id, attempt.number)}",
        "Content-Type": "application/json",
    }
    body = WorkerReport(seq=number + 1, series=series).model_dump_json().encode()
    return Call(path=f"/api/v1/attempts/{attempt.id}/reports", body=body, headers=headers)


def _peers(database: Database, url: str, calls: int) -> tuple[float, float]:
    runs = [_new_run(url) for _ in range(CLIENTS)]
    plans = [[_log_batch(run, number) for number in range(calls)] for run in runs]
    took = asyncio.run(run_clients([url], plans))
    stored = _count(database, "mlflow", "SELECT count(*) FROM metrics")
    assert stored == CLIENTS * calls * POINTS, f"{stored} points arrived"
    return stored / took, _bytes(database, "mlflow", _PEERS) / stored


def _new_run(url: str) -> str:
    body = json.dumps({"experiment_id": "0", "start_time": 0}).encode()
    headers = {"Content-Type": "application/json"}
    for _ in range(_TRIES):
        try:
            with urlopen(Request(f"{url}/api/2.0/mlflow/runs/create", body, headers), timeout=60) as answer:
                return str(json.load(answer)["run"]["info"]["run_id"])
        except OSError:
            time.sleep(2)  # its workers come up one after the other
    raise TimeoutError("MLflow makes no run")


def _log_batch(run: str, number: int) -> Call:
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    points = [
        {"key": f"bench/{metric}", "value": sin(step), "timestamp": now_ms, "step": step}
        for step in range(number * STEPS, (number + 1) * STEPS)
        for metric in range(METRICS)
    ]
    body = json.dumps({"run_id": run, "metrics": points, "params": [], "tags": []}).encode()
    return Call(path="/api/2.0/mlflow/runs/log-batch", body=body, headers={"Content-Type": "application/json"})


def _count(database: Database, name: str, statement: str) -> int:
    [(found,)] = database.execute(name, statement)
    return int(str(found))


def _bytes(database: Database, name: str, tables: tuple[str, ...]) -> int:
    for table in tables:
        database.execute(name, f"VACUUM {table}")
    sizes = " + ".join(f"pg_total_relation_size('{table}')" for table in tables)
    return _count(database, name, f"SELECT {sizes}")
