"""The pass over the queue on PostgreSQL: what is read, written down, asked for and charged."""

from pathlib import Path

import pytest
from sqlalchemy import select

from service import attempts, experiments, reporting
from service.access import EVERYTHING
from service.contract.messages import ENGINE_RETURNED, PREEMPTION_ACKNOWLEDGED
from service.contract.status import EndReason
from service.errors import QuotaExceeded
from service.queue import controls, limits
from service.queue.explain import explain
from service.scheduler import ledger
from service.scheduler.capacity import Bounds
from service.scheduler.lease import Lease
from service.scheduler.output_census import measure_outputs
from service.scheduler.ray_jobs import NodeView
from service.storage.clock import database_now
from service.storage.database import Sessions
from service.storage.scheduling_tables import AttemptHolding, StartForecast, UsageRecord, UsageTotal
from service.storage.tables import Project
from tests.factories import NOW, make_finish, make_report, make_run_event, make_user
from tests.service.scheduler.queue_world import EAGER, HOUR, QueueWorld, cpus

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(sessions: Sessions, lease: Lease) -> QueueWorld:
    return QueueWorld(sessions, lease)


async def test_bundles_are_placed_on_nodes_and_the_driver_is_told(world: QueueWorld) -> None:
    await world.see(cpus("n1", 1), cpus("n2", 1))
    experiment_id = await world.submit("a")
    assert await world.run() == ["a"]
    async with world.sessions.begin() as session:
        started = await attempts.start(session, await world.attempt(experiment_id))
    assert sorted(started.nodes) == ["n1", "n2"]


async def test_a_bundle_larger_than_any_node_waits_and_says_so(world: QueueWorld) -> None:
    await world.see(cpus("n1", 2), cpus("n2", 2))
    big = await world.submit("big", resources={"trainer": {"num_cpus": 3}})
    await world.submit("small")
    assert await world.run() == ["small"]
    assert (await world.experiment(big)).waiting_reason == (
        "one trainer actor needs 3 CPUs on one node, and no node has that: the largest have 0 GPUs and 2 CPUs"
    )


async def test_the_operators_bounds_cut_nodes_down(world: QueueWorld) -> None:
    await world.see(cpus("n1", 2), cpus("n2", 2), bounds=Bounds(num_cpus=3, num_gpus=None))
    for name in ("a", "b"):
        await world.submit(name, resources={"trainer": {"num_cpus": 1.25}, "rollout": {"num_cpus": 0.5}})
    assert await world.run() == ["a"]


async def test_an_experiment_of_a_higher_class_gets_the_resources_of_a_preemptible_one(world: QueueWorld) -> None:
    await world.see(cpus("n1", 2))
    low = await world.submit("low", priority="backfill")
    queued_at = (await world.experiment(low)).queued_at
    assert await world.run() == ["low"]
    await world.start(low)
    high = await world.submit("high", priority="high")
    assert await world.run() == ["low"]
    assert await world.code(high) == "reserved"

    step = {"stage": "sft", "step": 7}
    report = make_report(events=[make_run_event(PREEMPTION_ACKNOWLEDGED, detail=step)])
    async with world.sessions.begin() as session:
        assert (await reporting.take_report(session, await world.attempt(low), report)).preempt
    async with world.sessions.begin() as session:
        attempt = await world.attempt(low)
        holding = await session.get_one(AttemptHolding, attempt.id)
        assert (holding.preempt_step, holding.preempted_for) == (step, high)
        assert holding.preempt_heard_at is not None
        await attempts.finish(session, attempt, make_finish(EndReason.PREEMPTED))
    assert await world.run() == ["low"], "ended, but not seen free"
    assert await world.code(low) == "releasing"
    async with world.sessions.begin() as session:
        await attempts.release(session, await world.attempt(low), await database_now(session))
    assert await world.run() == ["high"]
    again = await world.experiment(low)
    assert (again.status, again.num_failed_attempts, again.queued_at) == ("queued", 0, queued_at)
    await world.end(high)
    assert await world.run() == ["low"]
    async with world.sessions() as session:
        kinds = [event.kind for event in await experiments.events_after(session, low, after=0, limit=100)]
    assert kinds.count("preempt_requested") == 1


async def test_nobody_is_asked_twice_to_give_way(world: QueueWorld) -> None:
    await world.see(cpus("n1", 2))
    low = await world.submit("low", priority="backfill")
    await world.run()
    await world.submit("high", priority="high")
    await world.run()
    await world.run()
    async with world.sessions() as session:
        events = await experiments.events_after(session, low, after=0, limit=100)
    assert [event.kind for event in events].count("preempt_requested") == 1


async def test_a_driver_that_gave_way_unasked_counts_as_a_lost_job(world: QueueWorld) -> None:
    await world.see(cpus("n1", 2))
    experiment_id = await world.submit("a")
    await world.run()
    await world.start(experiment_id)
    async with world.sessions.begin() as session:
        experiment = await attempts.finish(
            session, await world.attempt(experiment_id), make_finish(EndReason.PREEMPTED)
        )
    assert (experiment.status, experiment.num_failed_attempts) == ("queued", 1)


async def test_idle_capacity_is_lent_to_rollouts_and_comes_back_for_whoever_waits(world: QueueWorld) -> None:
    await world.see(cpus("n1", 4))
    rollout = {"num_engines": 1, "max_num_engines": 3}
    lender = await world.submit("lender", resources={"rollout": rollout})
    await world.run()
    await world.start(lender)
    report = {"stage": "rl", "phase": "generating", "step": 1, "num_steps": 9, "since": NOW}
    assert (await world.report(lender, 1, progress=report)).lent_engines == []
    await world.run()
    lent = (await world.report(lender, 2)).lent_engines
    assert [engine.node for engine in lent] == ["n1", "n1"]
    assert (await world.attempt(lender)).num_cpus == 4

    await world.submit("waits", resources={"trainer": {"num_cpus": 0.5}, "rollout": {"num_cpus": 0.5}})
    assert await world.run() == ["lender"]
    kept = (await world.report(lender, 3)).lent_engines
    assert kept == lent[:1], "one was asked back, no more than is needed"
    assert await world.run() == ["lender"], "nobody starts on what is not seen free"
    returned = make_run_event(ENGINE_RETURNED, detail={"id": lent[1].id, "engine": 2})
    await world.report(lender, 4, events=[returned])
    assert await world.run() == ["lender"], "the pass that hears of it writes it down"
    assert await world.run() == ["lender", "waits"]
    assert (await world.attempt(lender)).num_cpus == 3
    async with world.sessions() as session:
        assert len(list(await session.scalars(select(UsageRecord)))) == 2, "each stretch at its own rate"


async def test_lent_engines_go_back_when_the_stage_asks_none(world: QueueWorld) -> None:
    await world.see(cpus("n1", 4))
    lender = await world.submit("lender", resources={"rollout": {"num_engines": 1, "max_num_engines": 3}})
    await world.run()
    await world.start(lender)
    report = {"stage": "rl", "phase": "generating", "step": 1, "num_steps": 9, "since": NOW}
    await world.report(lender, 1, progress=report)
    await world.run()
    assert len((await world.report(lender, 2, progress=report | {"stage": "sft"})).lent_engines) == 2
    await world.run()
    assert (await world.report(lender, 3)).lent_engines == []


async def test_real_use_is_charged_once_and_lowers_the_next_turn(world: QueueWorld) -> None:
    await world.see(cpus("n1", 2))
    heavy = await world.submit("heavy")
    await world.run()
    await world.pass_time(HOUR)
    await world.end(heavy)
    async with world.sessions.begin() as session:
        await ledger.charge(session, await world.attempt(heavy), EAGER, await database_now(session))
        record = (await session.scalars(select(UsageRecord))).one()
        total = (await session.scalars(select(UsageTotal))).one()
    assert (record.ended_at - record.started_at).total_seconds() == pytest.approx(HOUR, abs=60)
    assert total.value == pytest.approx(2 * 0.05 * HOUR, rel=0.02)
    await world.submit("again")
    await world.submit("other", user="bob")
    assert await world.run() == ["other"]


async def test_the_entry_penalty_counts_at_once_and_real_use_replaces_it(world: QueueWorld) -> None:
    await world.see(cpus("n1", 4))
    first = await world.submit("a1", max_runtime_s=int(HOUR))
    await world.run()
    await world.submit("a2")
    await world.submit("b1", user="bob")
    assert await world.run() == ["a1", "b1"], "ada holds something, although she has used nothing yet"
    await world.end(first)
    async with world.sessions() as session:
        assert (await session.scalars(select(UsageTotal.value))).one() < 60, "no penalty outlives its attempt"


async def test_a_quota_holds_back_its_user_alone(world: QueueWorld) -> None:
    await world.see(cpus("n1", 8))
    async with world.sessions.begin() as session:
        project = (await session.scalars(select(Project))).one()
        ada = await make_user(session)
        await limits.set_quota(session, project, ada, {"max_running": 1}, user=await make_user(session))
    await world.submit("a1")
    held_back = await world.submit("a2")
    await world.submit("b1", user="bob")
    assert await world.run() == ["a1", "b1"]
    assert (await world.experiment(held_back)).waiting_reason == (
        "user ada in project default: 1 of 1 running experiments allowed"
    )


async def test_gpu_hours_of_the_window_count_what_is_over_and_what_runs(world: QueueWorld) -> None:
    await world.see(NodeView(id="n1", num_cpus=16, num_gpus=8, gpu_type="H100"))
    async with world.sessions.begin() as session:
        project = (await session.scalars(select(Project))).one()
        await limits.set_quota(session, project, None, {"max_gpu_hours": 5.0}, user=await make_user(session))
    gpus = {"trainer": {"num_gpus": 2}}
    over = await world.submit("over", resources=gpus, max_runtime_s=int(HOUR))
    await world.run()
    await world.pass_time(HOUR)
    await world.end(over)
    await world.submit("runs", resources=gpus, max_runtime_s=int(HOUR))
    assert await world.run() == ["runs"]
    beyond = await world.submit("beyond", resources=gpus, max_runtime_s=int(HOUR))
    within = await world.submit("within", resources={"trainer": {"num_gpus": 1}}, max_runtime_s=1800)
    assert await world.run() == ["runs", "within"]
    assert await world.code(beyond) == "quota"
    assert await world.code(within) is None


async def test_outputs_are_measured_and_a_full_storage_refuses_submissions(world: QueueWorld, tmp_path: Path) -> None:
    await world.see(cpus("n1", 2))
    experiment_id = await world.submit("a")
    await world.run()
    (tmp_path / experiment_id).mkdir()
    (tmp_path / experiment_id / "model").write_bytes(b"x" * 1000)
    measured = [await measure_outputs(world.sessions, world.lease, lambda name: str(tmp_path / name)) for _ in range(2)]
    assert measured == [1, 0], "once is enough for a while"
    async with world.sessions.begin() as session:
        project = (await session.scalars(select(Project))).one()
        await limits.set_quota(session, project, None, {"max_storage_bytes": 1000}, user=await make_user(session))
        assert (await limits.list_quotas(session, EVERYTHING))[0].num_bytes == 1000
    with pytest.raises(QuotaExceeded, match="stores 1e-06 of 1e-06 GB"):
        await world.submit("b")


async def test_a_held_experiment_waits_until_it_is_released(world: QueueWorld) -> None:
    await world.see(cpus("n1", 8))
    experiment_id = await world.submit("a")
    async with world.sessions.begin() as session:
        await controls.hold(session, experiment_id, user=await make_user(session), reason="look first")
    assert await world.run() == []
    assert (await world.experiment(experiment_id)).waiting_reason == "held by ada: look first"
    async with world.sessions.begin() as session:
        await controls.release(session, experiment_id, user=await make_user(session))
    assert await world.run() == ["a"]


async def test_a_drained_queue_empties_itself_and_goes_on_when_resumed(world: QueueWorld) -> None:
    await world.see(cpus("n1", 2))
    experiment_id = await world.submit("a")
    await world.run()
    await world.start(experiment_id)
    async with world.sessions.begin() as session:
        await controls.pause(session, None, user=await make_user(session), reason="disks", drains=True)
    await world.run()
    async with world.sessions.begin() as session:
        report = await reporting.take_report(session, await world.attempt(experiment_id), make_report())
        assert report.preempt
    await world.end(experiment_id, EndReason.PREEMPTED)
    assert await world.run() == []
    assert (await world.experiment(experiment_id)).waiting_reason == "the queue is drained: disks (ada)"
    async with world.sessions.begin() as session:
        await controls.resume(session, None, user=await make_user(session))
    assert await world.run() == ["a"]


@pytest.mark.parametrize(
    ("policy", "status", "code"),
    [("wait", "queued", "dependency_failed"), ("run", "admitted", None), ("cancel", "cancelled", "dependency_failed")],
)
async def test_what_a_failed_dependency_leads_to(world: QueueWorld, policy: str, status: str, code: str | None) -> None:
    await world.see(cpus("n1", 8))
    first = await world.submit("first")
    second = await world.submit("second", scheduling={"after": [first], "on_failed_dependency": policy})
    assert await world.run() == ["first"]
    assert await world.code(second) == "dependency"
    await world.end(first)
    await world.run()
    row = await world.experiment(second)
    assert (row.status, await world.code(second) if status != "admitted" else None) == (status, code)
    assert (row.end_reason == "dependency_failed") == (policy == "cancel")


async def test_a_dependency_that_succeeded_lets_the_next_one_start(world: QueueWorld) -> None:
    await world.see(cpus("n1", 8))
    first = await world.submit("first")
    await world.submit("second", scheduling={"after": [first]})
    await world.run()
    await world.end(first, EndReason.COMPLETED)
    assert await world.run() == ["second"]


async def test_places_and_expected_starts_are_written_down_and_explained(world: QueueWorld) -> None:
    await world.see(cpus("n1", 2))
    await world.submit("runs", max_runtime_s=int(HOUR))
    await world.run()
    second, third = await world.submit("second"), await world.submit("third", user="bob")
    await world.run()
    async with world.sessions() as session:
        found = await explain(session, third)
        assert (found.place, found.num_queued) == (1, 2), "bob has used nothing"
        assert (found.user.name, found.user.usage, found.user.factor) == ("bob", 0.0, 1.0)
        assert found.project.factor == 0.5, "the only project has used all of the use and is meant to"
        assert found.reservation_at is not None and found.start is not None
        assert found.start.at_the_latest == found.reservation_at
        assert (found.start.num_records, found.start.likely) == (0, None)
        behind = await explain(session, second)
    assert behind.place == 2 and behind.start is not None
    assert behind.start.at_the_latest > found.start.at_the_latest
    assert behind.unblocks is not None and "ahead" in behind.unblocks


async def test_forecasts_are_compared_with_what_came(world: QueueWorld) -> None:
    await world.see(cpus("n1", 2))
    first = await world.submit("first", max_runtime_s=int(HOUR))
    await world.run()
    waiting = [await world.submit(f"w{number}", max_runtime_s=60) for number in range(12)]
    await world.run()
    async with world.sessions.begin() as session:
        # Everybody started after half of the time that was predicted.
        mine = StartForecast.experiment_id.in_(waiting[1:])
        for row in await session.scalars(select(StartForecast).where(mine)):
            row.started_at = row.made_at + (row.predicted_at - row.made_at) / 2
    async with world.sessions() as session:
        start = (await explain(session, waiting[0])).start
        assert start is not None and start.likely is not None
        now = await database_now(session)
        assert start.num_records == 11
        assert (start.likely - now) / (start.at_the_latest - now) == pytest.approx(0.5, abs=0.01)
    await world.end(first)
    await world.run()
    async with world.sessions() as session:
        assert (await session.get_one(StartForecast, waiting[0])).started_at is not None
