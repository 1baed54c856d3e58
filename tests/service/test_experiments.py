"""Experiments as people handle them, on PostgreSQL."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, experiments, listing, queue
from service.access import EVERYTHING, project_named
from service.contract.status import EndReason, ExperimentStatus
from service.errors import IdempotencyConflict, InvalidSpec, NotAllowedNow, NotFound
from service.experiments import ExperimentView
from service.listing import ExperimentFilter, ListStart
from service.queue.reasons import WaitingReason, write_reasons
from service.queue.snapshot import write_snapshot
from service.storage.database import Sessions
from service.storage.tables import Experiment
from tests.factories import NOW, PLAN, find_project, make_attempt, make_experiment, make_spec, make_user

pytestmark = pytest.mark.anyio


async def submit(sessions: Sessions, key: str | None, body: str = "a" * 64, **spec: Any) -> tuple[Experiment, bool]:
    async with sessions.begin() as session:
        user = await make_user(session)
        made = await experiments.submit(
            session,
            user=user,
            project=await find_project(session),
            spec=make_spec(**spec),
            plan=PLAN.model_dump(mode="json"),
            body_sha256=body,
            idempotency_key=key,
        )
        return made.experiment, made.is_replay


async def a_page(
    session: AsyncSession, *, wanted: ExperimentFilter | None = None, limit: int = 50, start: ListStart | None = None
) -> tuple[list[ExperimentView], ListStart | None]:
    return await listing.list_page(
        session, visible=EVERYTHING, wanted=wanted or ExperimentFilter(), limit=limit, start=start
    )


async def test_fifty_equal_requests_at_once_make_one_experiment(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await make_user(session)
    answers = await asyncio.gather(*(submit(sessions, "key") for _ in range(50)))
    assert len({experiment.id for experiment, _ in answers}) == 1
    assert sum(not replayed for _, replayed in answers) == 1
    async with sessions.begin() as session:
        assert len(await experiments.events_after(session, answers[0][0].id, after=0, limit=10)) == 1


async def test_a_key_with_another_body_is_a_conflict(sessions: Sessions) -> None:
    first, _ = await submit(sessions, "key")
    with pytest.raises(IdempotencyConflict) as refused:
        await submit(sessions, "key", body="b" * 64)
    assert refused.value.details == {"experiment_id": first.id}


async def test_without_a_key_every_request_makes_an_experiment(sessions: Sessions) -> None:
    assert (await submit(sessions, None))[0].id != (await submit(sessions, None))[0].id


async def test_unknown_project_is_refused_with_the_nearest_name(sessions: Sessions) -> None:
    with pytest.raises(InvalidSpec) as refused:
        async with sessions() as session:
            await project_named(session, "defualt", EVERYTHING)
    assert refused.value.details["errors"][0]["hint"] == "did you mean 'default'?"


async def test_what_was_submitted_is_read_back_unchanged(sessions: Sessions) -> None:
    spec = make_spec(tags=["a", "b"], priority="high", seed=7)
    async with sessions.begin() as session:
        experiment = await make_experiment(session, tags=["a", "b"], priority="high", seed=7)
    async with sessions.begin() as session:
        stored = await experiments.get(session, experiment.id)
        assert type(spec).model_validate(stored.spec) == spec
        assert (stored.priority_rank, stored.num_cpus, stored.tags) == (1, 1.0, ["a", "b"])


async def test_pages_hold_every_experiment_once_newest_first(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        made = [(await make_experiment(session)).id for _ in range(5)]  # one transaction: equal times, ids decide
    pages, start = [], None
    async with sessions.begin() as session:
        while True:
            views, start = await a_page(session, limit=2, start=start)
            pages.append([view.experiment.id for view in views])
            if start is None:
                break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == sorted(made, reverse=True)


async def test_a_page_that_is_just_full_is_the_last(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await make_experiment(session)
        views, start = await a_page(session, limit=1)
        assert (len(views), start) == (1, None)
        nothing, _ = await a_page(session, limit=1, start=ListStart(value=NOW, id=""))
        assert nothing == []


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (ExperimentFilter(tag="x"), ["Alpha"]),
        (ExperimentFilter(name="LPH"), ["Alpha"]),
        (ExperimentFilter(name="%"), []),
        (ExperimentFilter(project="other"), []),
        (ExperimentFilter(project="default", statuses=[ExperimentStatus.QUEUED]), ["Alpha", "beta"]),
        (ExperimentFilter(statuses=[ExperimentStatus.FAILED]), []),
    ],
)
async def test_filters_narrow_the_list(sessions: Sessions, wanted: ExperimentFilter, names: list[str]) -> None:
    async with sessions.begin() as session:
        await make_experiment(session, name="Alpha", tags=["x", "y"])
        await make_experiment(session, name="beta")
        views, _ = await a_page(session, wanted=wanted)
        assert sorted(view.experiment.name for view in views) == names


async def test_until_the_scheduler_has_looked_places_follow_class_age_and_id(sessions: Sessions) -> None:
    for name, priority in (("c", "normal"), ("d", "normal"), ("a", "urgent"), ("e", "backfill"), ("b", "high")):
        async with sessions.begin() as session:
            await make_experiment(session, name=name, priority=priority)
    async with sessions.begin() as session:
        views = await experiments.list_queued(session, visible=EVERYTHING)
        assert "".join(view.experiment.name for view in views) == "abcde"
        assert [await queue.position(session, view.experiment) for view in views] == [1, 2, 3, 4, 5]
        assert [view.queue_position for view in views] == [1, 2, 3, 4, 5]


async def test_admitted_experiments_have_no_position(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        waiting = await make_experiment(session)
        view = await experiments.view(session, attempt.experiment_id)
        assert (view.queue_position, await queue.position(session, view.experiment)) == (None, None)
        assert await queue.position(session, waiting) == 1
        live = await experiments.list_live(session, visible=EVERYTHING)
        assert [view.experiment.id for view in live] == [attempt.experiment_id]


async def test_places_are_those_that_the_scheduler_saw_last(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        rows = [await make_experiment(session, name=name) for name in "abc"]
        order = [rows[1].id, rows[0].id]
        await write_snapshot(session, now=NOW, experiment_ids=order, facts={})
        assert [await queue.position(session, row) for row in rows] == [2, 1, 3]
        views = await experiments.list_queued(session, visible=EVERYTHING)
        assert [(view.experiment.name, view.queue_position) for view in views] == [("b", 1), ("a", 2), ("c", 3)]


async def test_reasons_are_written_for_those_that_still_wait(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        waiting, gone = await make_experiment(session), await make_experiment(session)
        await make_attempt(session, gone)
        late = [WaitingReason(experiment_id=row.id, code="held", text="by ada") for row in (waiting, gone)]
        await write_reasons(session, late)
        for row in (waiting, gone):
            await session.refresh(row)
        assert (waiting.waiting_reason, gone.waiting_reason) == ("by ada", None)


async def test_cancel_ends_a_queued_experiment_at_once(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        user = await make_user(session)
        experiment = await experiments.cancel(session, (await make_experiment(session)).id, user=user)
        assert (experiment.status, experiment.end_reason) == ("cancelled", "cancelled_by_user")
        assert experiment.cancel_requested_at is not None
        kinds = [event.kind for event in await experiments.events_after(session, experiment.id, after=0, limit=9)]
        assert kinds == ["status", "cancel_requested", "status"]
        with pytest.raises(NotAllowedNow):
            await experiments.cancel(session, experiment.id, user=user)


@pytest.mark.parametrize("started", [False, True])
async def test_cancel_of_a_live_experiment_is_a_wish_and_idempotent(sessions: Sessions, started: bool) -> None:
    async with sessions.begin() as session:
        user = await make_user(session)
        attempt = await make_attempt(session, started=started)
        first = await experiments.cancel(session, attempt.experiment_id, user=user)
        num_events = len(await experiments.events_after(session, first.id, after=0, limit=99))
        again = await experiments.cancel(session, attempt.experiment_id, user=user)
        assert (first.status, again.cancel_requested_at) == ("cancelling", first.cancel_requested_at)
        assert len(await experiments.events_after(session, first.id, after=0, limit=99)) == num_events


async def test_retry_queues_again_at_the_end_with_all_retries(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, max_retries=0)
        failed = await attempts.end_attempt(session, attempt, EndReason.CONFIG_ERROR, "no such model", {})
        first_queued_at = failed.queued_at
        user = await make_user(session)
    async with sessions.begin() as session:
        again = await experiments.retry(session, attempt.experiment_id, user=user)
        assert (again.status, again.end_reason, again.ended_at, again.message) == ("queued", None, None, "")
        assert again.queued_at > first_queued_at
        assert again.waiting_reason == "waits until Ray let go of attempt 1"
        with pytest.raises(NotAllowedNow, match="only a failed or cancelled"):
            await experiments.retry(session, attempt.experiment_id, user=user)


async def test_an_unknown_experiment_is_not_found(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        user = await make_user(session)
        for call in (
            experiments.get(session, "exp-none"),
            experiments.view(session, "exp-none"),
            experiments.cancel(session, "exp-none", user=user),
            experiments.retry(session, "exp-none", user=user),
            experiments.events_after(session, "exp-none", after=0, limit=1),
        ):
            with pytest.raises(NotFound):
                await call


async def test_events_are_read_after_an_id(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        every = await experiments.events_after(session, attempt.experiment_id, after=0, limit=99)
        assert [event.id for event in every] == sorted(event.id for event in every)
        rest = await experiments.events_after(session, attempt.experiment_id, after=every[1].id, limit=2)
        assert [event.id for event in rest] == [event.id for event in every[2:4]]
