"""A cluster of named nodes, a queue on PostgreSQL, and a scheduler's passes over it."""

from datetime import timedelta
from typing import Any

from sqlalchemy import select, update

from service import attempts, queue, reporting
from service.contract.messages import ReportAck
from service.contract.status import EndReason
from service.scheduler import ledger
from service.scheduler.admission_pass import run_admission
from service.scheduler.capacity import Bounds, record_sight
from service.scheduler.decision.facts import Policy
from service.scheduler.lease import Lease
from service.scheduler.ray_jobs import ClusterView, NodeView
from service.scheduler.stage_contents import StageContents
from service.storage.clock import database_now
from service.storage.database import Sessions
from service.storage.scheduling_tables import AttemptHolding, QueueEntry
from service.storage.tables import Attempt, Experiment
from tests.factories import make_experiment, make_report, make_user

EAGER = Policy(preempt_exempt_s=0, preempt_patience_s=0)
HOUR = 3600.0
EVALUATION = {"data": {"path": "/data/test.jsonl"}, "reward": {"type": "countdown"}, "max_completion_length": 8}
UNBOUNDED = Bounds(num_cpus=None, num_gpus=None)


class QueueWorld:
    """A cluster of named nodes, and a scheduler's passes over its queue."""

    def __init__(self, sessions: Sessions, lease: Lease) -> None:
        self.sessions = sessions
        self.lease = lease
        self.contents = StageContents()

    async def see(self, *nodes: NodeView, bounds: Bounds = UNBOUNDED) -> None:
        view = ClusterView(
            session_name="session_1",
            num_cpus=sum(node.num_cpus for node in nodes),
            num_gpus=sum(node.num_gpus for node in nodes),
            num_nodes=len(nodes),
            nodes=nodes,
        )
        async with self.sessions.begin() as session:
            await record_sight(session, view, bounds, await database_now(session))

    async def submit(self, name: str, user: str = "ada", **spec: Any) -> str:
        """An experiment that holds a trainer and, for its evaluation, a rollout engine."""
        async with self.sessions.begin() as session:
            spec = {"evaluation": EVALUATION, **spec}
            made = await make_experiment(session, user=await make_user(session, user), name=name, **spec)
            return made.id

    async def run(self, policy: Policy = EAGER) -> list[str]:
        """A pass, or several until all files have been read; the names of those that hold resources after it."""
        for _ in range(50):
            await run_admission(self.sessions, self.lease, policy, self.contents)
            async with self.sessions() as session:
                pending = select(QueueEntry.experiment_id).where(QueueEntry.content_state == "pending")
                if not list(await session.scalars(pending)):
                    break
        async with self.sessions() as session:
            holders = [row.experiment_id for row in await queue.holding_rows(session)]
            rows = await session.scalars(select(Experiment.name).where(Experiment.id.in_(holders)))
            return sorted(rows)

    async def experiment(self, experiment_id: str) -> Experiment:
        async with self.sessions() as session:
            return await session.get_one(Experiment, experiment_id)

    async def code(self, experiment_id: str) -> str | None:
        async with self.sessions() as session:
            return (await session.get_one(QueueEntry, experiment_id)).wait_code

    async def attempt(self, experiment_id: str) -> Attempt:
        async with self.sessions() as session:
            newest = select(Attempt).where(Attempt.experiment_id == experiment_id).order_by(Attempt.number.desc())
            return (await session.scalars(newest.limit(1))).one()

    async def start(self, experiment_id: str) -> Attempt:
        async with self.sessions.begin() as session:
            return (await attempts.start(session, await self.attempt(experiment_id))).attempt

    async def report(self, experiment_id: str, seq: int, **values: Any) -> ReportAck:
        async with self.sessions.begin() as session:
            attempt = await self.attempt(experiment_id)
            return await reporting.take_report(session, attempt, make_report(seq, **values))

    async def end(self, experiment_id: str, reason: EndReason = EndReason.STAGE_FAILED) -> None:
        """Ended, and seen free."""
        async with self.sessions.begin() as session:
            attempt = await self.attempt(experiment_id)
            await attempts.end_attempt(session, attempt, reason, "", {})
            now = await database_now(session)
            await attempts.release(session, attempt, now)
            await ledger.charge(session, attempt, EAGER, now)

    async def pass_time(self, seconds: float) -> None:
        """What holds resources has done so for so much longer."""
        earlier = timedelta(seconds=seconds)
        async with self.sessions.begin() as session:
            await session.execute(update(Attempt).values(created_at=Attempt.created_at - earlier))
            await session.execute(update(AttemptHolding).values(charged_until=AttemptHolding.charged_until - earlier))


def cpus(name: str, number: float) -> NodeView:
    return NodeView(id=name, num_cpus=number, num_gpus=0)
