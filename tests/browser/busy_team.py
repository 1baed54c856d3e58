"""A team at work: nodes, projects, experiments in every state, as the real scheduler leaves them in the database.

For tests of the overview pages, and for their pictures in docs/: `python -m tests.browser.pictures`.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from service import attempts, tenancy
from service.contract.access import ProjectRole
from service.contract.messages import Progress
from service.contract.status import EndReason
from service.queue import controls, limits
from service.scheduler.capacity import Bounds, record_sight
from service.scheduler.lease import acquire_lease
from service.scheduler.ray_jobs import ClusterView, NodeView
from service.storage.clock import database_now
from service.storage.database import Sessions
from service.storage.processes import record_life
from service.storage.scheduling_tables import AttemptHolding, StartForecast
from service.storage.tables import Attempt, Experiment
from tests.factories import find_project, make_stage_result, make_user, spec_body
from tests.service.scheduler.queue_world import QueueWorld

GIB = 2.0**30
NODES = (
    NodeView(id="a1" * 28, num_cpus=16, num_gpus=0, name="10.0.0.1", is_head=True, memory_bytes=48 * GIB),
    NodeView(id="b2" * 28, num_cpus=96, num_gpus=8, gpu_type="H100", name="10.0.0.2", memory_bytes=900 * GIB),
    NodeView(id="c3" * 28, num_cpus=64, num_gpus=4, gpu_type="L4", name="10.0.0.3", memory_bytes=240 * GIB),
)
ATTACK = "<img src=x onerror=alert(1)>"


def _resources(ranks: int, engines: int, kind: str = "H100") -> dict[str, Any]:
    one = {"num_cpus": 4, "num_gpus": 1, "gpu_types": [kind]}
    return {"trainer": {**one, "num_ranks": ranks}, "rollout": {**one, "num_engines": engines}}


_STANDING = (
    select(AttemptHolding.bundles)
    .join(Attempt, Attempt.id == AttemptHolding.attempt_id)
    .where(Attempt.released_at.is_(None))
)


class BusyTeam:
    """Feeds one database, step by step."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.ids: dict[str, str] = {}
        """By name."""
        self._world: QueueWorld | None = None

    async def begin(self) -> None:
        """People, projects, a scheduler that leads, and a cluster that it has seen."""
        async with self.sessions.begin() as session:
            ada = await make_user(session, "ada", is_admin=True)
            for name in ("sed-sft", "math-rl"):
                await tenancy.projects.create(session, ada, name)
                await tenancy.members.set_role(
                    session, None, await find_project(session, name), "ada", ProjectRole.MAINTAINER
                )
            for name, project in (("bo", "math-rl"), ("cleo", "sed-sft"), ("dina", "sed-sft")):
                await make_user(session, name, project=project, role=ProjectRole.MEMBER)
            lease = await acquire_lease(session, "head-node:4711:1f3a90c2", 3600.0)
            assert lease is not None
            for role, instance, leads in (
                ("scheduler", "head-node:4711:1f3a90c2", True),
                ("scheduler", "spare-node:977:b07c11de", False),
                ("api", "head-node:4702:66aa01f0", None),
            ):
                detail = {"version": "0.1.0"} | ({} if leads is None else {"leads": leads})
                await record_life(session, role, instance, detail=detail)  # type: ignore[arg-type]
        self._world = QueueWorld(self.sessions, lease)
        await self._see()

    @property
    def world(self) -> QueueWorld:
        """The scheduler's side."""
        assert self._world is not None, "begin first"
        return self._world

    async def submit(
        self, name: str, user: str, project: str, *, ranks: int = 1, engines: int = 1, kind: str = "H100", **spec: Any
    ) -> str:
        """One more in the queue."""
        sft = spec_body()["sft"] | {"objective": {"type": spec.pop("objective", "ce")}}
        resources = _resources(ranks, engines, kind)
        made = await self.world.submit(name, user, project=project, sft=sft, resources=resources, **spec)
        self.ids[name] = made
        return made

    async def work(self, *names: str) -> None:
        """Lets the scheduler look, and those of these names that it admits begin and report."""
        holding = await self.world.run()
        await self._see()
        for place, name in enumerate(one for one in names if one in holding):
            await self.world.start(self.ids[name])
            stage, phase, step, of = (
                ("rl", "generating", 142, 400),
                ("sft", "training", 610, 900),
                ("evaluate_after_sft", "generating", 96, 256),
            )[place % 3]
            now = datetime.now(UTC)
            progress = Progress(stage=stage, phase=phase, step=step, num_steps=of, since=now)  # type: ignore[arg-type]
            await self.world.report(self.ids[name], 1, progress=progress)

    async def end(self, name: str, reason: EndReason) -> None:
        """It ran, and is over; what completed left results behind."""
        await self.work(name)
        if reason is EndReason.COMPLETED:
            after_sft = {"eval/test/pass@1": 0.31 + 0.017 * len(self.ids), "eval/test/pass@8": 0.62}
            async with self.sessions.begin() as session:
                attempt = await self.world.attempt(self.ids[name])
                for stage, metrics in (("sft", {"sft/loss": 0.41}), ("evaluate_after_sft", after_sft)):
                    result = make_stage_result(stage, metrics=metrics)  # type: ignore[arg-type]
                    await attempts.record_stage_result(session, attempt, result)
        await self.world.end(self.ids[name], reason)

    async def age(self) -> None:
        """Spreads what has happened over the last two days."""
        await self.world.pass_time(2.3 * 3600)
        async with self.sessions.begin() as session:
            ids = list(await session.scalars(select(Experiment.id).order_by(Experiment.submitted_at)))
            for place, one in enumerate(reversed(ids)):
                earlier = timedelta(minutes=9 + 47 * place)
                moved = update(Experiment).where(Experiment.id == one)
                await session.execute(
                    moved.values(
                        submitted_at=Experiment.submitted_at - earlier, started_at=Experiment.started_at - earlier
                    )
                )
            await session.execute(update(Attempt).values(started_at=Attempt.created_at))

    async def learn(self) -> None:
        """Forecasts that came to an end, so that the error of new ones is known."""
        async with self.sessions.begin() as session:
            now = await database_now(session)
            for place, one in enumerate(await session.scalars(select(Experiment.id))):
                made, share = now - timedelta(hours=3), 0.35 + 0.04 * place
                values = {"made_at": made, "predicted_at": made + timedelta(hours=2)}
                started = made + timedelta(hours=2) * share
                await session.merge(StartForecast(experiment_id=one, started_at=started, **values))

    async def govern(self) -> None:
        """A quota for a project and one for a user, a hold, and a window in which nothing may run."""
        async with self.sessions.begin() as session:
            ada = await make_user(session)
            project = await find_project(session, "math-rl")
            await limits.set_quota(
                session, project, None, {"shares": 2.0, "max_gpus": 8.0, "max_gpu_hours": 400.0}, user=ada
            )
            await limits.set_quota(session, project, await make_user(session, "bo"), {"max_running": 2}, user=ada)
            now = await database_now(session)
            start = now.replace(minute=0, second=0, microsecond=0) + timedelta(days=1)
            await controls.add_window(
                session, starts_at=start, ends_at=start + timedelta(hours=3), reason="new switches", user=ada
            )

    async def _see(self) -> None:
        held: dict[str, tuple[float, float]] = {}
        async with self.sessions.begin() as session:
            for holding in await session.scalars(_STANDING):
                for one in holding:
                    cpus, gpus = held.get(one["node"], (0.0, 0.0))
                    held[one["node"]] = cpus + one["num_cpus"], gpus + one["num_gpus"]
            view = ClusterView(
                session_name="session_2026-11-25_08-14-31_220117_912",
                num_cpus=sum(node.num_cpus for node in NODES),
                num_gpus=sum(node.num_gpus for node in NODES),
                num_nodes=len(NODES),
                nodes=NODES,
                held=held,
            )
            await record_sight(session, view, Bounds(num_cpus=None, num_gpus=None), await database_now(session))


async def fill(team: BusyTeam) -> None:
    """Everything, as the pictures show it."""
    await team.begin()
    for name, user, project, objective, reason in (
        ("gsm8k-ce-base", "bo", "math-rl", "ce", EndReason.COMPLETED),
        ("countdown-sed-s1", "cleo", "sed-sft", "sed", EndReason.COMPLETED),
        ("countdown-gem-s1", "dina", "sed-sft", "gem", EndReason.STAGE_FAILED),
        ("gsm8k-dft", "bo", "math-rl", "dft", EndReason.COMPLETED),
        ("countdown-sed-s2", "cleo", "sed-sft", "sed", EndReason.COMPLETED),
    ):
        await team.submit(name, user, project, objective=objective, tags=[project.split("-")[0], "seed-1"])
        await team.end(name, reason)
    running = ("gsm8k-sed-then-grpo", "countdown-sed-s3", "olympiad-ce-s1")
    await team.submit(running[0], "bo", "math-rl", ranks=2, engines=2, objective="sed", tags=["paper"])
    await team.submit(running[1], "cleo", "sed-sft", ranks=1, engines=1, objective="sed", tags=["sed", "seed-3"])
    await team.submit(running[2], "dina", "sed-sft", ranks=1, engines=1, kind="L4", tags=["olympiad"])
    await team.work(*running)
    await team.govern()
    for place, (name, user, project, spec) in enumerate(_WAITING):
        await team.submit(name, user, project, max_runtime_s=3600 * (2 + place), **spec)
    async with team.sessions.begin() as session:
        ada = await make_user(session)
        await controls.hold(session, team.ids["gsm8k-eaft"], user=ada, reason="wait for the cleaned answers")
    await team.age()
    await team.learn()
    await team.work()


_WAITING: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    (
        "math-sed-8gpu",
        "bo",
        "math-rl",
        {"ranks": 4, "engines": 4, "priority": "high", "objective": "sed", "tags": ["paper"]},
    ),
    ("countdown-gem-s2", "dina", "sed-sft", {"ranks": 2, "engines": 1, "objective": "gem", "tags": ["seed-2"]}),
    ("gsm8k-eaft", "bo", "math-rl", {"ranks": 2, "engines": 2, "objective": "eaft"}),
    ("countdown-focal-s1", "cleo", "sed-sft", {"ranks": 4, "engines": 2, "objective": "focal", "tags": ["ablation"]}),
    ("too-large-for-us", "bo", "math-rl", {"ranks": 12, "engines": 4, "priority": "low"}),
)
