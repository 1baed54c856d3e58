"""How long a person waits for the page of a large team: `python -m bench.pages [--experiments N] [--json FILE]`.

    experiments_page_p95_ms    the list: newest first, searched, filtered, sorted, counted, deep in its pages
    queue_page_p95_ms          the queue with a tenth of the experiments waiting and 40 running
    experiment_page_p95_ms     one experiment with attempts, events and a log
    cluster_page_p95_ms        nodes and ledger

Whole requests to one API process over HTTP, one after the other, against the built-in PostgreSQL. Each is targeted at
200 ms. Rows are made directly in the database: a fifth of them in each of five projects, over twenty users.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from bench.servers import Service, postgres, service
from service import auth
from service.contract.access import ProjectRole
from service.contract.messages import StageResult
from service.contract.plan import ExperimentPlan
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from service.queue import snapshot
from service.storage.database import create_engine, create_sessions
from service.storage.queue_entries import roles_of
from service.storage.scheduling_tables import AttemptHolding, QueueEntry
from service.storage.tables import (
    Attempt,
    ClusterState,
    Experiment,
    ExperimentEvent,
    LogLineRow,
    Project,
    StageResultRow,
    User,
)
from service.tenancy import members, projects, users

logger = logging.getLogger(__name__)
TARGET_MS = 200.0
NUM_PROJECTS, NUM_USERS, NUM_RUNNING, NUM_NODES = 5, 20, 40, 8
OBJECTIVES = ("ce", "sed", "gem", "dft", "eaft", "focal")
_AT_ONCE = 1000
_ENDS = (*2 * [("succeeded", "completed")], ("failed", "stage_failed"), ("cancelled", "cancelled_by_user"))
_WHY = "needs 2 GPUs and 8 CPUs; not enough is free, or kept for those ahead"


def main() -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100, help="for each row")
    parser.add_argument("--json", type=Path, help="file for the rows")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logger.setLevel(logging.INFO)
    logger.info("%d experiments, load %.1f on %d cores", given.experiments, os.getloadavg()[0], os.cpu_count() or 0)
    with postgres() as database, service(database, replicas=1) as one:
        token, ids = asyncio.run(fill(one.database_url, given.experiments))
        database.execute("sedray", "ANALYZE")
        rows = measure(one, token, ids, given.requests)
    for name, row in rows.items():
        logger.info("%-26s %8.1f ms   p50 %8.1f ms   below %.0f", name, row["value"], row["p50"], TARGET_MS)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(one: Service, token: str, ids: Sequence[str], requests: int) -> dict[str, dict[str, float]]:
    """The rows; every path is asked for once before it counts."""
    [url] = one.urls
    with httpx.Client(base_url=url, cookies={"sedray_token": token}, timeout=60.0) as client:
        cursors = _cursors(client)
        lists = (
            "/",
            "/?text=study-7",
            "/?status=succeeded&objective=sed",
            "/?project=team-3&order=ended",
            "/?user=user-7&order=name",
            "/?tag=seed-4",
            *(f"/?cursor={cursor}" for cursor in cursors),
        )
        paths = {
            "experiments_page_p95_ms": lists,
            "queue_page_p95_ms": ("/queue", "/queue?offset=300"),
            "experiment_page_p95_ms": [f"/experiments/{name}" for name in (ids[0], ids[len(ids) // 2], ids[-1])],
            "cluster_page_p95_ms": ("/cluster",),
        }
        return {name: _row(client, each, requests) for name, each in paths.items()}


def _cursors(client: httpx.Client) -> list[str]:
    """Of pages further and further back."""
    found, cursor = [], None
    for page in range(20):
        query = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
        cursor = client.get("/api/v1/experiments", params=query).raise_for_status().json()["next_cursor"]
        if cursor is None:
            break
        if page % 7 == 6:
            found.append(cursor)
    return found


def _row(client: httpx.Client, paths: Sequence[str], requests: int) -> dict[str, float]:
    for path in paths:
        client.get(path).raise_for_status()
    taken = []
    for number in range(requests):
        began = time.perf_counter()
        client.get(paths[number % len(paths)]).raise_for_status()
        taken.append(1000 * (time.perf_counter() - began))
    taken.sort()
    return {"value": taken[int(0.95 * (len(taken) - 1))], "p50": taken[len(taken) // 2], "target": TARGET_MS}


async def fill(database_url: str, count: int) -> tuple[str, list[str]]:
    """A team's history; returns a token that sees all of it, and the experiments' ids, oldest first."""
    engine = create_engine(database_url)
    try:
        async with create_sessions(engine).begin() as session:
            token = await _people(session)
            project_ids = list(await session.scalars(select(Project.id).where(Project.name.like("team-%"))))
            user_ids = list(await session.scalars(select(User.id).where(User.name.like("user-%"))))
            rows = [_experiment(number, count, project_ids, user_ids) for number in range(count)]
            await _insert(session, Experiment, rows)
            await _queue(session, rows)
            await _attempts(session, rows)
            await _story(session, [row["id"] for row in (rows[0], rows[count // 2], rows[-1])])
            return token, [row["id"] for row in rows]
    finally:
        await engine.dispose()


async def _people(session: AsyncSession) -> str:
    admin = await users.create(session, None, "admin", is_admin=True)
    made = [await projects.create(session, admin, f"team-{number}") for number in range(NUM_PROJECTS)]
    for number in range(NUM_USERS):
        user = await users.create(session, None, f"user-{number}", is_admin=False)
        project = made[number % NUM_PROJECTS]
        await members.set_role(session, None, project, user.name, ProjectRole.MEMBER)
    return (await auth.issue_token(session, admin, "bench"))[1]


def _experiment(number: int, count: int, project_ids: list[str], user_ids: list[str]) -> dict[str, Any]:
    chance = random.Random(number)
    objective = OBJECTIVES[number % len(OBJECTIVES)]
    spec = _spec(number, objective)
    at = datetime.now(UTC) - timedelta(minutes=7 * (count - number))
    row: dict[str, Any] = {
        "id": f"exp-{number:012d}",
        "project_id": project_ids[number % len(project_ids)],
        "user_id": user_ids[number % len(user_ids)],
        "name": spec["name"],
        "tags": spec["tags"],
        "spec": spec,
        "spec_sha256": "0" * 64,
        "plan": ExperimentPlan(stages=[], num_cpus=8.0, num_gpus=2.0, warnings=[]).model_dump(mode="json"),
        "body_sha256": "0" * 64,
        "priority_rank": 2,
        "num_cpus": 8.0,
        "num_gpus": 2.0,
        "max_retries": 3,
        "submitted_at": at,
        "queued_at": at,
    }
    nothing = {"status": "queued", "end_reason": None, "started_at": None, "ended_at": None, "waiting_reason": None}
    if number >= count - count // 10:
        return row | nothing | {"waiting_reason": _WHY}
    if number >= count - count // 10 - NUM_RUNNING:
        return row | nothing | {"status": "running", "started_at": at + timedelta(minutes=5)}
    status, reason = _ENDS[chance.randrange(len(_ENDS))]
    ends = {"started_at": at + timedelta(minutes=5), "ended_at": at + timedelta(hours=chance.uniform(1, 9))}
    return row | nothing | {"status": status, "end_reason": reason} | ends


def _spec(number: int, objective: str) -> dict[str, Any]:
    """Whole, with its defaults, as the service stores it."""
    sft = {
        "data": {"path": "/data/sft.jsonl"},
        "objective": {"type": objective},
        "optimizer": {"learning_rate": 1e-5},
        "num_epochs": 3,
        "batch_size": 32,
    }
    body = {
        "name": f"study-{number % 97}-{objective}-{number}",
        "description": f"arm {objective} of study {number % 97}",
        "tags": [f"study-{number % 97}", f"seed-{number % 10}"],
        "model": {"path": "/models/base"},
        "sft": sft,
        "resources": {"trainer": {"num_gpus": 1}, "rollout": {"num_gpus": 1}},
    }
    return ExperimentSpec.model_validate(body).model_dump(mode="json")


async def _insert(session: AsyncSession, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    for first in range(0, len(rows), _AT_ONCE):
        await session.execute(insert(table), rows[first : first + _AT_ONCE])


async def _queue(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    roles = roles_of(ExperimentSpec.model_validate(rows[0]["spec"]).resources)
    entry = {"roles": roles, "max_runtime_s": 36_000.0, "preemptible": True, "after_ids": [], "limits": []}
    entries = [{"experiment_id": row["id"], **entry} for row in rows]
    for row, made in zip(rows, entries, strict=True):
        made["wait_code"] = "resources" if row["status"] == "queued" else None
    await _insert(session, QueueEntry, entries)
    now = datetime.now(UTC)
    waiting = [row["id"] for row in rows if row["status"] == "queued"]
    usage = [[f"team-{number % NUM_PROJECTS}", f"user-{number}", 1e5 * (1 + number)] for number in range(NUM_USERS)]
    starts = [now.timestamp() + 600.0 * place for place in range(len(waiting))]
    facts = {"reservations": [], "usage": usage, "policy": {}}
    await snapshot.write_snapshot(session, now=now, experiment_ids=waiting, facts=facts, starts=starts)
    nodes: list[dict[str, Any]] = [
        {"id": f"{number:056x}", "num_cpus": 96.0, "num_gpus": 8.0, "gpu_type": "H100", "name": f"10.0.0.{number}"}
        for number in range(NUM_NODES)
    ]
    cluster = {
        "id": 1,
        "observed_at": now,
        "reachable": True,
        "num_cpus": 96.0 * NUM_NODES,
        "num_gpus": 8.0 * NUM_NODES,
    }
    await session.execute(insert(ClusterState).values(**cluster, nodes=nodes, message=f"{NUM_NODES} nodes"))


async def _attempts(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    """One for each that has started."""
    started = [row for row in rows if row["started_at"] is not None]
    await _insert(session, Attempt, [_attempt(row) for row in started])
    over = [row for row in started if row["status"] == "succeeded"]
    await _insert(
        session, StageResultRow, [_result(row, stage) for row in over for stage in ("sft", "evaluate_after_rl")]
    )
    holdings = [_holding(place, row) for place, row in enumerate(row for row in started if row["ended_at"] is None)]
    await _insert(session, AttemptHolding, holdings)


def _attempt(row: dict[str, Any]) -> dict[str, Any]:
    is_over = row["ended_at"] is not None
    progress = {"stage": "rl", "phase": "generating", "step": 120, "num_steps": 400}
    return {
        "id": f"{row['id']}-a1",
        "experiment_id": row["id"],
        "number": 1,
        "status": "ended" if is_over else "running",
        "end_reason": row["end_reason"],
        "ray_submission_id": f"sedray-{row['id']}-a1",
        "num_cpus": 8.0,
        "num_gpus": 2.0,
        "progress": None if is_over else progress | {"since": row["started_at"].isoformat()},
        "created_at": row["started_at"],
        "started_at": row["started_at"],
        "heartbeat_at": row["ended_at"] or row["started_at"],
        "ended_at": row["ended_at"],
        "released_at": row["ended_at"],
    }


def _result(row: dict[str, Any], stage: StageName) -> dict[str, Any]:
    metrics = {f"eval/test/pass@{k}": 0.5 for k in (1, 2, 4, 8)} | {f"diversity/test/distinct-{n}": 0.5 for n in (1, 2)}
    result = StageResult(
        stage=stage,
        started_at=row["started_at"],
        finished_at=row["ended_at"],
        duration_s=600.0,
        steps_done=100,
        steps_planned=100,
        metrics=metrics | {"sft/loss": 0.5},
    )
    attempt_id = f"{row['id']}-a1"
    told = result.model_dump(mode="json")
    return {"experiment_id": row["id"], "stage": stage, "attempt_id": attempt_id, "result": told}


def _holding(place: int, row: dict[str, Any]) -> dict[str, Any]:
    node = f"{place % NUM_NODES:056x}"
    bundles = [{"role": role, "node": node, "num_cpus": 4.0, "num_gpus": 1.0} for role in ("trainer", "rollout")]
    return {
        "attempt_id": f"{row['id']}-a1",
        "project_id": row["project_id"],
        "user_id": row["user_id"],
        "bundles": bundles,
        "rate": 2.0,
        "penalty": 0.0,
        "charged_until": row["started_at"],
        "preempt_reason": "",
    }


async def _story(session: AsyncSession, ids: Sequence[str]) -> None:
    """Events and, of those that ran, a log, so that the page of one experiment has something to show."""
    attempts = {row.experiment_id: row.id for row in await session.execute(select(Attempt.id, Attempt.experiment_id))}
    for name in ids:
        events = [{"experiment_id": name, "kind": "note", "message": f"event {number}"} for number in range(300)]
        await _insert(session, ExperimentEvent, events)
        if name in attempts:
            line = {"experiment_id": name, "attempt_id": attempts[name], "source": "driver", "ts": datetime.now(UTC)}
            await _insert(session, LogLineRow, [line | {"text": f"step {number}: loss 0.5"} for number in range(2000)])


if __name__ == "__main__":
    main()
