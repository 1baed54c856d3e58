"""The life of a study on PostgreSQL: submitted, amended, paused, cancelled, and its runs excluded."""

from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service import studies
from service.access import EVERYTHING
from service.contract.status import ExperimentStatus
from service.contract.studies import StudySpec
from service.contract.study_changes import StudyChange, StudyState
from service.errors import IdempotencyConflict, NotAllowedNow, NotFound, QuotaExceeded
from service.queue import controls, limits
from service.storage.database import Sessions
from service.storage.identifiers import new_id
from service.storage.scheduling_tables import QueueEntry
from service.storage.study_tables import Study
from service.storage.tables import Experiment
from service.studies.drafting import draft_study
from tests.factories import find_project, make_study, make_user, planned_study, study_body
from tests.service.studies.counted_runs import runs_of, succeed

pytestmark = pytest.mark.anyio


async def entries(session: AsyncSession, study_id: str) -> list[QueueEntry]:
    ids = [run.run.experiment_id for run in await runs_of(session, study_id)]
    rows = await session.scalars(
        select(QueueEntry).where(QueueEntry.experiment_id.in_(ids)).execution_options(populate_existing=True)
    )
    by_id = {row.experiment_id: row for row in rows}
    return [by_id[name] for name in ids]


async def amend(session: AsyncSession, study: Study, **change: Any) -> None:
    wanted = StudyChange.model_validate({"reason": "why", **change})
    present, before = await studies.spec_and_amendments(session, study)
    spec = studies.apply_change(present, wanted)
    made = {(one.run.arm, one.run.sft_seed, one.run.rl_seed) for one in await runs_of(session, study.id)}
    planned = planned_study(draft_study(study.id, spec, made))
    user = await make_user(session)
    await studies.amend(session, study.id, user=user, change=wanted, planned=planned, num_before=len(before))


async def test_a_study_and_all_its_experiments_are_stored_at_once(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        study = await make_study(session)
    async with sessions() as session:
        view = await studies.view(session, study.id)
        runs = await runs_of(session, study.id)
        tagged = await session.scalar(select(func.count()).where(Experiment.tags.contains([study.id])))
    assert (view.study.state, view.num_by_status) == ("running", {ExperimentStatus.QUEUED: 4})
    assert [(run.run.arm, run.run.sft_seed, run.run.rl_seed) for run in runs][:2] == [("ce", 1, 1), ("sed", 1, 1)]
    assert tagged == 4


async def test_a_study_beyond_the_quota_leaves_nothing_behind(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        project, admin = await find_project(session), await make_user(session, "admin", is_admin=True)
        await limits.set_quota(session, project, None, {"max_queued": 3}, user=admin)
    with pytest.raises(QuotaExceeded):
        async with sessions.begin() as session:
            await make_study(session)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Study)) == 0
        assert await session.scalar(select(func.count()).select_from(Experiment)) == 0


async def test_the_same_key_gives_the_same_study(sessions: Sessions) -> None:
    async def submit(body_sha256: str) -> tuple[str, bool]:
        spec = StudySpec.model_validate(study_body())
        async with sessions.begin() as session:
            study, replayed = await studies.submit(
                session,
                user=await make_user(session),
                planned=planned_study(draft_study(new_id("study"), spec)),
                submitted=spec.model_dump(mode="json"),
                body_sha256=body_sha256,
                idempotency_key="k",
            )
            return study.id, replayed

    first, replayed = await submit("1" * 64)
    assert not replayed
    assert await submit("1" * 64) == (first, True)
    with pytest.raises(IdempotencyConflict):
        await submit("2" * 64)


async def test_a_pause_holds_what_waits_and_a_resume_releases_its_own_holds_only(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        study, ada = await make_study(session), await make_user(session)
        first = (await runs_of(session, study.id))[0].run.experiment_id
        await controls.hold(session, first, user=ada, reason="by hand")
        await studies.pause(session, study.id, user=ada, reason="lunch")
        held = await entries(session, study.id)
    assert [entry.held_reason for entry in held] == ["by hand", *[f"study {study.id} is paused: lunch"] * 3]
    async with sessions.begin() as session:
        await studies.resume(session, study.id, user=ada)
        assert [entry.held_reason for entry in await entries(session, study.id)] == ["by hand", "", "", ""]
        with pytest.raises(NotAllowedNow, match="only one that is paused can be resumed"):
            await studies.resume(session, study.id, user=ada)


async def test_a_cancelled_study_is_over_for_good(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        study, ada = await make_study(session), await make_user(session)
        await succeed(session, (await runs_of(session, study.id))[0].run.experiment_id)
        await studies.cancel(session, study.id, user=ada, reason="wrong data")
        statuses = [run.status for run in await runs_of(session, study.id)]
        assert statuses == [ExperimentStatus.SUCCEEDED, *[ExperimentStatus.CANCELLED] * 3]
        row = await session.get_one(Study, study.id, populate_existing=True)
        assert (row.state, row.state_reason, row.message) == (
            "cancelled",
            "cancelled_by_user",
            "cancelled by ada: wrong data",
        )
        with pytest.raises(NotAllowedNow, match="nothing of it is left to cancel"):
            await studies.cancel(session, study.id, user=ada, reason="")
        with pytest.raises(NotAllowedNow, match="can be amended"):
            await amend(session, study, add_sft_seeds=[9])


async def test_amendments_bring_further_runs_and_stand_apart_from_what_was_submitted(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        study = await make_study(session)
        await amend(session, study, add_sft_seeds=[7])
        await amend(session, study, add_arms=[{"name": "dft", "overrides": {"sft.objective": {"type": "dft"}}}])
        runs = await runs_of(session, study.id)
        row = await session.get_one(Study, study.id, populate_existing=True)
        spec, _ = await studies.spec_and_amendments(session, row)
    assert [(run.run.arm, run.run.sft_seed, run.run.amendment) for run in runs[4:]] == [
        ("ce", 7, 1),
        ("sed", 7, 1),
        ("dft", 1, 2),
        ("dft", 2, 2),
        ("dft", 7, 2),
    ]
    assert row.spec["sft_seeds"] == [1, 2] and spec.sft_seeds == [1, 2, 7]


async def test_an_amendment_of_max_running_reaches_what_was_queued_before(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        study = await make_study(session, max_running=2)
        await amend(session, study, max_running=3)
        assert [entry.limits for entry in await entries(session, study.id)] == [
            [{"group": study.id, "max_running": 3}]
        ] * 4
        await amend(session, study, max_running=None)
        assert [entry.limits for entry in await entries(session, study.id)] == [[]] * 4


async def test_runs_of_an_amendment_to_a_paused_study_are_held(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        study, ada = await make_study(session), await make_user(session)
        await studies.pause(session, study.id, user=ada, reason="")
        await amend(session, study, add_sft_seeds=[7])
        assert all(entry.held_by == "ada" for entry in await entries(session, study.id))


async def test_an_excluded_run_keeps_its_counts_and_says_why(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        study, ada = await make_study(session), await make_user(session)
        first, second = (run.run.experiment_id for run in (await runs_of(session, study.id))[:2])
        await succeed(session, first, [4, 0])
        await studies.exclude(session, study.id, first, user=ada, reason="wrong node")
        with pytest.raises(NotAllowedNow, match="excluded by ada: wrong node"):
            await studies.exclude(session, study.id, first, user=ada, reason="again")
        with pytest.raises(NotAllowedNow, match="is not excluded"):
            await studies.include(session, study.id, second, user=ada)
        with pytest.raises(NotFound, match="has no experiment 'exp-none'"):
            await studies.exclude(session, study.id, "exp-none", user=ada, reason="x")
        counted = (await studies.read_counts(session, study.id))[0]
        assert (counted.counts, counted.excluded_by, counted.excluded_reason) == (False, "ada", "wrong node")
        await studies.include(session, study.id, first, user=ada)
        counted = (await studies.read_counts(session, study.id))[0]
    assert counted.counts and (after_rl := counted.at("after_rl")) is not None
    assert (after_rl.num_samples, after_rl.uids) == (4, (0, 1))
    assert [list(after_rl.values(metric)) for metric in ("pass@1", "avg", "maj")] == [[1.0, 0.0]] * 3


async def test_lists_are_narrowed_and_paged(sessions: Sessions) -> None:
    for name in ("one", "two", "three"):
        async with sessions.begin() as session:
            await make_study(session, name=name)
    async with sessions() as session:
        everything = studies.StudyFilter()
        page, start = await studies.list_page(session, visible=EVERYTHING, wanted=everything, limit=2, start=None)
        rest, end = await studies.list_page(session, visible=EVERYTHING, wanted=everything, limit=2, start=start)
        wanted = studies.StudyFilter(state=StudyState.RUNNING, name="TW")
        (found,), _ = await studies.list_page(session, visible=EVERYTHING, wanted=wanted, limit=2, start=None)
    assert [view.study.name for view in (*page, *rest)] == ["three", "two", "one"]
    assert end is None and found.study.name == "two"
