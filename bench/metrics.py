"""Appends and reads of metric series on a real PostgreSQL: `python -m bench.metrics --database-url postgresql+psycopg://…`.

Needs a migrated database and leaves one experiment in it. One client, one connection; times are wall time in
milliseconds as the caller of the store sees them.
"""

import argparse
import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from math import sin

from sqlalchemy import select

from service import metric_store
from service.contract.messages import MetricPoint
from service.storage.database import Sessions, create_engine, create_sessions
from service.storage.identifiers import new_id
from service.storage.tables import Attempt, Experiment, Project, User

logger = logging.getLogger(__name__)

LONG = "bench/long"


async def measure(what: str, repeats: int, action: Callable[[], Awaitable[object]]) -> None:
    """Logs the best and the median of `repeats` calls, and the mean CPU time of this process: its event loop's load."""
    times_ms = []
    cpu_s = time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        await action()
        times_ms.append((time.perf_counter() - start) * 1e3)
    cpu_ms = (time.process_time() - cpu_s) * 1e3 / repeats
    best, median = min(times_ms), statistics.median(times_ms)
    logger.info("%-52s best %7.1f ms  median %7.1f ms  client CPU %7.1f ms", what, best, median, cpu_ms)


async def make_attempt(sessions: Sessions) -> Attempt:
    """A live attempt that nobody schedules."""
    async with sessions.begin() as session:
        project = await session.scalar(select(Project).limit(1)) or Project(id=new_id("project"), name=new_id("bench"))
        user = User(id=new_id("user"), name=new_id("bench"))
        session.add_all([project, user])
        await session.flush()
        experiment = Experiment(
            id=new_id("exp"),
            project_id=project.id,
            user_id=user.id,
            name="bench",
            tags=[],
            spec={},
            spec_sha256="",
            plan={},
            body_sha256="",
            priority_rank=2,
            num_cpus=0,
            num_gpus=0,
            max_retries=0,
            status="running",
        )
        session.add(experiment)
        await session.flush()
        attempt = Attempt(
            id=f"{experiment.id}-a1",
            experiment_id=experiment.id,
            number=1,
            status="running",
            ray_submission_id=experiment.id,
            num_cpus=0,
            num_gpus=0,
        )
        session.add(attempt)
    return attempt


async def append(sessions: Sessions, attempt: Attempt, names: list[str], first_step: int, count: int) -> None:
    """One batch: `count` steps of every name."""
    now = datetime.now(UTC)
    points = [
        MetricPoint(name=name, step=step, value=sin(step), ts=now)
        for step in range(first_step, first_step + count)
        for name in names
    ]
    async with sessions.begin() as session:
        await metric_store.append_points(session, attempt, points)


async def read(sessions: Sessions, attempt: Attempt, names: list[str], max_points: int) -> list[metric_store.Series]:
    """The named series."""
    async with sessions() as session:
        return await metric_store.read_series(session, attempt.experiment_id, names, max_points)


async def run(database_url: str, num_steps: int) -> None:
    """All measurements."""
    engine = create_engine(database_url)
    sessions = create_sessions(engine)
    attempt = await make_attempt(sessions)
    names = [f"bench/{number:02d}" for number in range(40)]
    steps = iter(range(0, 10**9, 4))
    await measure(
        "append 40 metrics x 4 steps (a report)", 400, lambda: append(sessions, attempt, names, next(steps), 4)
    )
    starts = iter(range(0, num_steps, 5_000))
    await measure(
        "append 1 metric x 5,000 steps",
        num_steps // 5_000,
        lambda: append(sessions, attempt, [LONG], next(starts), 5_000),
    )
    for max_points in (200, 600, 1_000, 5_000):
        what = f"read 1 series of {num_steps:,} steps, max_points {max_points:,}"
        await measure(what, 10, lambda max_points=max_points: read(sessions, attempt, [LONG], max_points))  # type: ignore[misc]
    await measure("read 40 series of 1,600 steps, max_points 600", 5, lambda: read(sessions, attempt, names, 600))
    await measure("read 40 series of 1,600 steps, max_points 2,000", 5, lambda: read(sessions, attempt, names, 2_000))
    await engine.dispose()


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--num-steps", type=int, default=200_000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(run(arguments.database_url, arguments.num_steps))


if __name__ == "__main__":
    main()
