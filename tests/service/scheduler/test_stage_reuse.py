"""The same stage in two experiments: run once, waited for, taken over, and never across projects."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from service import attempts, experiments, listing
from service.access import EVERYTHING
from service.contract.status import EndReason
from service.scheduler.content import Unreadable, read_digest, read_stamp
from service.scheduler.lease import Lease
from service.storage.database import Sessions
from service.storage.scheduling_tables import QueueEntry, StageKey
from service.storage.stage_results import read_stage_results
from service.tenancy import projects
from tests.factories import make_finish, make_stage_result
from tests.service.scheduler.queue_world import QueueWorld, cpus

pytestmark = pytest.mark.anyio


class ReuseWorld(QueueWorld):
    """A cluster with room for all, and files that specifications name."""

    folder: Path

    async def experiment_on(self, name: str, data: str = "sft.jsonl", **changes: Any) -> str:
        path = str(self.folder / data)
        sft = {
            "data": {"path": path},
            "optimizer": {"learning_rate": 1e-3},
            "num_epochs": 1,
            "batch_size": 8,
        }
        return await self.submit(name, sft=sft, model={"path": str(self.folder / "model")}, **changes)

    async def finish_sft(self, experiment_id: str) -> None:
        """Its driver reports the stage, and the attempt ends."""
        async with self.sessions.begin() as session:
            attempt = (await attempts.start(session, await self.attempt(experiment_id))).attempt
            await attempts.record_stage_result(session, attempt, make_stage_result(detail={"exported_step": 10}))
        async with self.sessions.begin() as session:
            await attempts.finish(session, await self.attempt(experiment_id), make_finish())
        await self.end_quietly(experiment_id)

    async def end_quietly(self, experiment_id: str) -> None:
        async with self.sessions.begin() as session:
            attempt = await self.attempt(experiment_id)
            await attempts.release(session, attempt, attempt.ended_at or attempt.created_at)

    async def sources(self, experiment_id: str) -> dict[str, str]:
        """By reused stage, the experiment that has run it."""
        async with self.sessions() as session:
            results = await read_stage_results(session, experiment_id)
        found = {result.stage: result.detail.get("reused_from") for result in results}
        return {stage: lineage["experiment_id"] for stage, lineage in found.items() if lineage}


@pytest.fixture
async def world(sessions: Sessions, lease: Lease, tmp_path: Path) -> ReuseWorld:
    world = ReuseWorld(sessions, lease)
    world.folder = tmp_path
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("sft.jsonl", "copy.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "other.jsonl").write_text('{"prompt": "a", "completion": "c"}\n')
    time.sleep(0.02)  # the clock of files is coarse; runs begin after them
    await world.see(cpus("n1", 100))
    return world


async def test_the_same_training_waits_for_the_one_in_flight_and_takes_its_result(world: ReuseWorld) -> None:
    first = await world.experiment_on("first")
    second = await world.experiment_on("second", "copy.jsonl", priority="low")
    assert await world.run() == ["first"]
    assert (await world.experiment(second)).waiting_reason == (
        f"{first} does the same training now; its result will be reused"
    )
    await world.finish_sft(first)
    assert await world.run() == ["second"]
    assert await world.sources(second) == {"sft": first}
    async with world.sessions.begin() as session:
        started = await attempts.start(session, await world.attempt(second))
    assert started.reused_stages == {"sft": first}
    async with world.sessions() as session:
        kinds = [event.kind for event in await experiments.events_after(session, second, after=0, limit=100)]
    assert "stage_reused" in kinds


async def test_other_content_other_settings_and_never_are_run_at_once(world: ReuseWorld) -> None:
    await world.experiment_on("first")
    await world.experiment_on("other data", "other.jsonl")
    await world.experiment_on("other seed", seed=1)
    await world.experiment_on("never", reuse="never")
    assert await world.run() == ["first", "never", "other data", "other seed"]


async def test_nothing_is_reused_across_projects(world: ReuseWorld) -> None:
    async with world.sessions.begin() as session:
        await projects.create(session, None, "second-team")
    first = await world.experiment_on("first")
    await world.run()
    await world.finish_sft(first)
    await world.experiment_on("theirs", project="second-team")
    assert await world.run() == ["theirs"]
    assert await world.sources(await the_only(world, "theirs")) == {}


async def the_only(world: ReuseWorld, name: str) -> str:
    async with world.sessions() as session:
        views, _ = await listing.list_page(
            session, visible=EVERYTHING, wanted=listing.ExperimentFilter(name=name), limit=2, start=None
        )
    (view,) = views
    return view.experiment.id


async def test_a_result_of_files_that_changed_since_is_not_reused(world: ReuseWorld) -> None:
    first = await world.experiment_on("first")
    await world.run()
    await world.finish_sft(first)
    (world.folder / "sft.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    second = await world.experiment_on("second")
    assert await world.run() == ["second"]
    assert await world.sources(second) == {}, "nobody can tell what the first run has read"


async def test_a_failed_run_lets_the_next_one_train(world: ReuseWorld) -> None:
    first = await world.experiment_on("first")
    second = await world.experiment_on("second")
    await world.run()
    await world.end(first, EndReason.STAGE_FAILED)
    assert await world.run() == ["second"]
    assert await world.sources(second) == {}


async def test_what_is_reused_names_the_run_that_did_the_work(world: ReuseWorld) -> None:
    first = await world.experiment_on("first")
    await world.run()
    await world.finish_sft(first)
    second = await world.experiment_on("second")
    await world.run()
    third = await world.experiment_on("third")
    await world.run()
    assert (await world.sources(second), await world.sources(third)) == ({"sft": first}, {"sft": first})


async def test_a_driver_that_declined_replaces_what_was_to_be_reused(world: ReuseWorld) -> None:
    first = await world.experiment_on("first")
    await world.run()
    await world.finish_sft(first)
    second = await world.experiment_on("second")
    await world.run()
    await world.finish_sft(second)
    assert await world.sources(second) == {}
    async with world.sessions.begin() as session:
        attempt = await world.attempt(first)
        assert (await read_stage_results(session, first))[0].detail == {"exported_step": 10}, attempt.id


async def test_files_are_digested_only_where_settings_agree(world: ReuseWorld) -> None:
    await world.experiment_on("first")
    await world.experiment_on("other seed", seed=1)
    await world.run()
    async with world.sessions() as session:
        assert set(await session.scalars(select(StageKey.content_key))) == {None}
        assert set(await session.scalars(select(QueueEntry.content_state))) == {"none"}


def test_the_name_of_a_single_file_and_hidden_files_do_not_count(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "two" / ".git").mkdir()
    (tmp_path / "two" / ".git" / "HEAD").write_text("x")
    (tmp_path / "two" / "README.md").write_text("x")
    assert read_digest(str(tmp_path / "one")) == read_digest(str(tmp_path / "two"))
    assert read_digest(str(tmp_path / "one" / "config.json")) == read_digest(str(tmp_path / "two" / "config.json"))
    (tmp_path / "two" / "config.json").write_text("{ }")
    assert read_digest(str(tmp_path / "one")) != read_digest(str(tmp_path / "two"))


def test_a_change_shows_in_the_stamp_although_the_time_was_set_back(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("a")
    before, times = read_stamp(str(file)), file.stat()
    time.sleep(0.02)
    file.write_text("b")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = read_stamp(str(file))
    assert after.text != before.text and after.changed_at > before.changed_at


def test_what_is_not_there_is_unreadable(tmp_path: Path) -> None:
    for read in (read_stamp, read_digest):
        with pytest.raises(Unreadable):
            read(str(tmp_path / "nothing"))
