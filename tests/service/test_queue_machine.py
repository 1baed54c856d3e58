"""The queue and its attempts, the same rules on a dictionary and on PostgreSQL, then compared."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from service import attempts, experiments, queue
from service.contract.failures import retry_after
from service.contract.spec import PRIORITY_RANK, PriorityName
from service.contract.status import EndReason
from service.errors import NotAllowedNow, StaleAttempt
from service.storage.database import create_engine, create_sessions
from service.storage.tables import Attempt, Experiment
from tests.factories import make_experiment, make_finish, make_report, make_user

MAX_RETRIES = 1
LATER = datetime.now(UTC) + timedelta(days=1)
"""Beyond every back-off."""
LIVE = ("launching", "submitted", "running")


@dataclass
class Row:
    """The oracle's experiment, with its last attempt."""

    priority: PriorityName
    place: int
    status: str = "queued"
    number: int = 0
    attempt: str | None = None
    released: bool = True
    num_failed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    seq: int = 0

    @property
    def is_live(self) -> bool:
        return self.attempt in LIVE


class QueueMachine(RuleBasedStateMachine):
    """Random lives of a few experiments."""

    engine: AsyncEngine
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Row] = {}
        self.clock = 0
        self.sessions = create_sessions(self.engine)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def in_transaction(self, work: Any, *arguments: Any) -> Any:
        async with self.sessions.begin() as session:
            return await work(session, *arguments)

    def attempted(self, work: Any, *arguments: Any) -> bool:
        """Whether the database allowed it; a refusal rolls back."""
        try:
            self.run(self.in_transaction(work, *arguments))
        except (NotAllowedNow, StaleAttempt):
            return False
        return True

    def pick(self, index: int) -> tuple[str, Row]:
        return list(self.rows.items())[index % len(self.rows)]

    @initialize()
    def empty_database(self) -> None:
        async def empty(session: AsyncSession) -> None:
            await session.execute(text("TRUNCATE experiments CASCADE"))

        self.run(self.in_transaction(empty))

    @precondition(lambda self: len(self.rows) < 4)
    @rule(priority=st.sampled_from(sorted(PRIORITY_RANK)))
    def submit(self, priority: PriorityName) -> None:
        async def make(session: AsyncSession) -> str:
            return (await make_experiment(session, priority=priority, max_retries=MAX_RETRIES)).id

        self.clock += 1
        self.rows[self.run(self.in_transaction(make))] = Row(priority=priority, place=self.clock)

    @precondition(lambda self: self.rows)
    @rule(index=st.integers(0, 3))
    def admit(self, index: int) -> None:
        experiment_id, row = self.pick(index)

        async def admit(session: AsyncSession) -> None:
            await attempts.open_attempt(session, await experiments.get(session, experiment_id), LATER)

        allowed = row.status == "queued" and row.released
        assert self.attempted(admit) == allowed
        if allowed:
            row.status, row.attempt, row.released, row.seq = "admitted", "launching", False, 0
            row.number += 1

    @precondition(lambda self: self.rows)
    @rule(index=st.integers(0, 3))
    def mark_submitted(self, index: int) -> None:
        experiment_id, row = self.pick(index)
        if row.number:
            assert self.attempted(self.on_attempt, experiment_id, self.note_submission)
            row.attempt = "submitted" if row.attempt == "launching" else row.attempt

    @precondition(lambda self: self.rows)
    @rule(index=st.integers(0, 3))
    def start(self, index: int) -> None:
        experiment_id, row = self.pick(index)
        if row.number:
            assert self.attempted(self.on_attempt, experiment_id, attempts.start) == row.is_live
            if row.is_live:
                row.attempt = "running"
                row.status = "running" if row.status == "admitted" else row.status

    @precondition(lambda self: self.rows)
    @rule(index=st.integers(0, 3), repeated=st.booleans())
    def report(self, index: int, repeated: bool) -> None:
        experiment_id, row = self.pick(index)
        if row.number:
            report = make_report(max(1, row.seq + (0 if repeated else 1)))

            async def take(session: AsyncSession, attempt: Attempt) -> None:
                assert await attempts.accept_report(session, attempt, report) == (report.seq <= row.seq)

            assert self.attempted(self.on_attempt, experiment_id, take) == (row.attempt == "running")
            row.seq = max(row.seq, report.seq) if row.attempt == "running" else row.seq

    @precondition(lambda self: self.rows)
    @rule(index=st.integers(0, 3), reason=st.sampled_from([reason for reason in EndReason if reason.ends_attempts]))
    def end(self, index: int, reason: EndReason) -> None:
        experiment_id, row = self.pick(index)
        if not row.number:
            return

        async def end(session: AsyncSession, attempt: Attempt) -> None:
            await attempts.end_attempt(session, attempt, reason, "", {})

        assert self.attempted(self.on_attempt, experiment_id, end) == row.is_live
        if row.is_live:
            self.expect_end(row, reason)

    @precondition(lambda self: self.rows)
    @rule(index=st.integers(0, 3))
    def finish_too_early(self, index: int) -> None:
        experiment_id, row = self.pick(index)

        async def finish(session: AsyncSession, attempt: Attempt) -> None:
            await attempts.finish(session, attempt, make_finish(EndReason.STAGE_FAILED))

        if row.is_live:
            assert self.attempted(self.on_attempt, experiment_id, finish)
            self.expect_end(row, EndReason.STAGE_FAILED)

    def expect_end(self, row: Row, reason: EndReason) -> None:
        row.attempt = "ended"
        if reason is EndReason.COMPLETED:
            row.status = "succeeded"
        elif row.status == "cancelling":
            row.status = "cancelled"
        else:
            # A stop that nobody asked for is a lost job.
            reason = EndReason.RAY_JOB_FAILED if reason is EndReason.CANCELLED_BY_USER else reason
            retry = retry_after(reason, row.counts, MAX_RETRIES, 1.0)
            row.status = "queued" if retry else "failed"
            if retry:
                row.counts = {**row.counts, retry.failure: retry.number}
                row.num_failed += retry.counts

    @precondition(lambda self: self.rows)
    @rule(index=st.integers(0, 3))
    def release(self, index: int) -> None:
        experiment_id, row = self.pick(index)
        if row.number:
            assert self.attempted(self.on_attempt, experiment_id, self.let_go) == (row.attempt == "ended")
            row.released = row.attempt == "ended"

    @precondition(lambda self: self.rows)
    @rule(index=st.integers(0, 3))
    def cancel(self, index: int) -> None:
        experiment_id, row = self.pick(index)

        async def cancel(session: AsyncSession) -> None:
            await experiments.cancel(session, experiment_id, user=await make_user(session))

        allowed = row.status in ("queued", "admitted", "running", "cancelling")
        assert self.attempted(cancel) == allowed
        if allowed:
            row.status = "cancelled" if row.status == "queued" else "cancelling"

    @precondition(lambda self: self.rows)
    @rule(index=st.integers(0, 3))
    def retry(self, index: int) -> None:
        experiment_id, row = self.pick(index)

        async def retry(session: AsyncSession) -> None:
            await experiments.retry(session, experiment_id, user=await make_user(session))

        allowed = row.status in ("failed", "cancelled")
        assert self.attempted(retry) == allowed
        if allowed:
            self.clock += 1
            row.status, row.place, row.num_failed, row.counts = "queued", self.clock, 0, {}

    @invariant()
    def both_agree(self) -> None:
        self.run(self.in_transaction(self.compare))

    async def compare(self, session: AsyncSession) -> None:
        rows = {row.id: row for row in await session.scalars(select(Experiment))}
        assert {key: (row.status, row.num_failed_attempts, row.num_attempts) for key, row in rows.items()} == {
            key: (row.status, row.num_failed, row.number) for key, row in self.rows.items()
        }
        found = {row.experiment_id: row for row in await session.scalars(select(Attempt).order_by(Attempt.number))}
        assert {key: (row.status, row.released_at is not None, row.last_report_seq) for key, row in found.items()} == {
            key: (row.attempt, row.released, row.seq) for key, row in self.rows.items() if row.number
        }
        assert {row.id for row in await queue.waiting_rows(session)} == {key for key, _ in self.waiting()}
        holders = {row.experiment_id for row in await queue.holding_rows(session)}
        assert holders == {key for key, row in self.rows.items() if not row.released}
        assert (await queue.taken(session)).num_cpus == 1.0 * sum(not row.released for row in self.rows.values())
        everybody = sorted((PRIORITY_RANK[row.priority], row.place, key) for key, row in self.waiting())
        for place, (_, _, key) in enumerate(everybody, start=1):
            assert await queue.position(session, rows[key]) == place

    def waiting(self) -> list[tuple[str, Row]]:
        return [(key, row) for key, row in self.rows.items() if row.status == "queued"]

    async def on_attempt(self, session: AsyncSession, experiment_id: str, work: Any) -> None:
        newest = select(Attempt).where(Attempt.experiment_id == experiment_id).order_by(Attempt.number.desc()).limit(1)
        await work(session, (await session.scalars(newest)).one())

    async def note_submission(self, session: AsyncSession, attempt: Attempt) -> None:
        await attempts.mark_submitted(session, attempt, ray_session="s", now=LATER)

    async def let_go(self, session: AsyncSession, attempt: Attempt) -> None:
        await attempts.release(session, attempt, LATER)


def test_queue_and_attempts_behave_like_the_dictionary(database_url: str) -> None:
    with asyncio.Runner() as runner:
        QueueMachine.engine, QueueMachine.runner = create_engine(database_url), runner
        run_state_machine_as_test(
            QueueMachine,
            settings=settings(
                max_examples=12,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        runner.run(QueueMachine.engine.dispose())
