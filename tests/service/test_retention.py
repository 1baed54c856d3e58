"""What ended experiments leave behind goes when its time is over, and not before."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from service import attempts, experiments, log_store, token_views
from service.contract.messages import LogLine
from service.contract.status import EndReason
from service.log_archive import Keep, ship_logs
from service.retention import Policy, due_now, policies_of, remove_due, set_policy
from service.storage.database import Sessions
from service.storage.log_tables import LogChunkRow
from service.storage.tables import Attempt, Experiment, LogLineRow, TokenViewRow
from tests.factories import NOW, find_project, make_attempt, make_token_view, make_user

pytestmark = pytest.mark.anyio
A_MONTH = Policy(logs=30, token_views=30, checkpoints=30)
FOR_EVER = Policy()


@pytest.fixture
def output_dir(tmp_path: Path) -> Callable[[str], str]:
    return lambda experiment_id: f"{tmp_path}/{experiment_id}"


async def ended(sessions: Sessions, output_dir: Callable[[str], str], *, days_ago: int) -> Attempt:
    """An experiment with lines in database and storage, a token view, a checkpoint and an exported model."""
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        lines = [LogLine(ts=NOW, text=f"{number}") for number in range(25)]
        await log_store.append_lines(session, attempt, lines)
        await token_views.store_views(session, attempt, [make_token_view()])
    await ship_logs(sessions, output_dir, Keep(newest_lines=5, chunk_lines=10))
    for name in ("checkpoints/sft/step-1", "models/sft"):
        folder = Path(output_dir(attempt.experiment_id)) / name
        folder.mkdir(parents=True)
        (folder / "weights").write_text("w")
    async with sessions.begin() as session:
        await attempts.end_attempt(session, attempt, EndReason.STAGE_FAILED, "no", {})
        await attempts.release(session, attempt, NOW)
        earlier = Experiment.ended_at - timedelta(days=days_ago)
        await session.execute(update(Experiment).where(Experiment.id == attempt.experiment_id).values(ended_at=earlier))
    return attempt


async def num_rows(sessions: Sessions) -> list[int]:
    async with sessions() as session:
        tables = (LogLineRow, LogChunkRow, TokenViewRow)
        return [await session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


async def test_what_is_due_goes_once_and_the_rest_stays(sessions: Sessions, output_dir: Callable[[str], str]) -> None:
    attempt = await ended(sessions, output_dir, days_ago=31)
    async with sessions() as session:
        planned = await due_now(session, A_MONTH)
    assert await num_rows(sessions) == [5, 2, 1], "a look removes nothing"
    removed = await remove_due(sessions, output_dir, A_MONTH)
    assert removed == planned
    assert [one.kind for one in removed] == ["checkpoints", "logs", "token_views"]
    assert await num_rows(sessions) == [0, 0, 0]
    folder = Path(output_dir(attempt.experiment_id))
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["weights"]
    assert (folder / "models/sft/weights").exists()
    assert await remove_due(sessions, output_dir, A_MONTH) == []
    async with sessions() as session:
        events = await experiments.events_after(session, attempt.experiment_id, after=0, limit=100)
    assert sum("removed: the policy of project default" in event.message for event in events) == 3


async def test_younger_and_living_experiments_keep_everything(
    sessions: Sessions, output_dir: Callable[[str], str]
) -> None:
    await ended(sessions, output_dir, days_ago=29)
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await log_store.append_lines(session, attempt, [LogLine(ts=NOW, text="alive")])
    assert await remove_due(sessions, output_dir, Policy(logs=30)) == []
    assert [one.kind for one in await remove_due(sessions, output_dir, Policy(token_views=0))] == ["token_views"]


async def test_without_a_policy_nothing_ever_goes(sessions: Sessions, output_dir: Callable[[str], str]) -> None:
    await ended(sessions, output_dir, days_ago=9999)
    assert await remove_due(sessions, output_dir, FOR_EVER) == []


async def test_a_projects_own_policy_takes_the_place_of_the_services(
    sessions: Sessions, output_dir: Callable[[str], str]
) -> None:
    await ended(sessions, output_dir, days_ago=31)
    async with sessions.begin() as session:
        await set_policy(session, None, await find_project(session), Policy(logs=7))
        assert await policies_of(session, A_MONTH) == {"default": (Policy(logs=7), True)}
    assert [one.kind for one in await remove_due(sessions, output_dir, A_MONTH)] == ["logs"]
    async with sessions.begin() as session:
        await set_policy(session, None, await find_project(session), None)
        assert await policies_of(session, A_MONTH) == {"default": (A_MONTH, False)}


async def test_what_a_retry_makes_goes_in_its_own_time(sessions: Sessions, output_dir: Callable[[str], str]) -> None:
    first = await ended(sessions, output_dir, days_ago=31)
    await remove_due(sessions, output_dir, Policy(logs=30))
    async with sessions.begin() as session:
        experiment = await experiments.retry(session, first.experiment_id, user=await make_user(session))
        second = await make_attempt(session, experiment)
        await log_store.append_lines(session, second, [LogLine(ts=NOW, text="again")])
        await attempts.end_attempt(session, second, EndReason.STAGE_FAILED, "no", {})
        await attempts.release(session, second, NOW)
    assert await remove_due(sessions, output_dir, Policy(logs=30)) == []
    assert [one.kind for one in await remove_due(sessions, output_dir, Policy(logs=0))] == ["logs"]
