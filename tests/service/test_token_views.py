"""Token views come back as they were sent, are replaced by later attempts, and stay bounded."""

import pytest

from service import attempts, reporting, token_views
from service.contract.messages import TokenView
from service.contract.status import EndReason
from service.errors import NotFound
from service.storage.database import Sessions
from service.storage.tables import Attempt
from tests.factories import NOW, experiment_of, make_attempt, make_report, make_token_view

pytestmark = pytest.mark.anyio


async def new_attempt(sessions: Sessions) -> Attempt:
    async with sessions.begin() as session:
        return await make_attempt(session)


async def store(sessions: Sessions, attempt: Attempt, *views: TokenView) -> None:
    async with sessions.begin() as session:
        await token_views.store_views(session, attempt, views)


async def places(sessions: Sessions, attempt: Attempt, **wanted: int) -> list[tuple[int, int]]:
    async with sessions() as session:
        entries = await token_views.entries_after(session, attempt.experiment_id, limit=1000, **wanted)
        return [(entry.step, entry.sample_index) for entry in entries]


async def read(sessions: Sessions, attempt: Attempt, step: int, sample_index: int = 0) -> TokenView:
    async with sessions() as session:
        return await token_views.read_view(
            session, attempt.experiment_id, stage="sft", step=step, sample_index=sample_index
        )


async def test_a_view_comes_back_as_it_was_sent(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    sent = make_token_view(3, 1)
    await store(sessions, attempt, sent)
    assert await read(sessions, attempt, 3, 1) == sent


async def test_a_mass_that_equals_tau_in_float32_is_no_less_than_tau_afterwards(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    tau = 0.30000001192092896  # the float32 nearest to 0.3
    await store(sessions, attempt, make_token_view(tau=tau, topk_masses=[None, tau, 0.3]))
    view = await read(sessions, attempt, 0)
    assert view.topk_masses[1:] == [view.tau, view.tau]


async def test_sampled_null_characters_are_stored_as_replacement_characters(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    await store(sessions, attempt, make_token_view(tokens=["a\0", "b", ""]))
    assert (await read(sessions, attempt, 0)).tokens == ["a\ufffd", "b", ""]


async def test_values_that_are_not_finite_come_back(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    await store(sessions, attempt, make_token_view(weights=[None, float("nan"), float("inf")], tau=None))
    view = await read(sessions, attempt, 0)
    assert (str(view.weights), view.tau) == ("[None, nan, inf]", None)


async def test_a_later_attempt_replaces_what_it_measures_again(sessions: Sessions) -> None:
    first = await new_attempt(sessions)
    await store(sessions, first, make_token_view(0), make_token_view(5))
    async with sessions.begin() as session:
        await attempts.end_attempt(session, first, EndReason.ACTOR_DIED, "gone", {})
        await attempts.release(session, first, NOW)
        second = await make_attempt(session, await experiment_of(session, first))
    await store(sessions, second, make_token_view(5, tokens=["x", "y", "z"]), make_token_view(9))
    assert await places(sessions, second) == [(0, 0), (5, 0), (9, 0)]
    assert (await read(sessions, second, 5)).tokens == ["x", "y", "z"]


async def test_entries_are_filtered_and_page_by_id(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    await store(sessions, attempt, *(make_token_view(step, sample) for step in (0, 5) for sample in (0, 1)))
    assert await places(sessions, attempt, step=5) == [(5, 0), (5, 1)]
    assert await places(sessions, attempt, sample_index=1) == [(0, 1), (5, 1)]
    async with sessions() as session:
        [first] = await token_views.entries_after(session, attempt.experiment_id, limit=1)
    assert await places(sessions, attempt, after=first.id) == [(0, 1), (5, 0), (5, 1)]
    assert first.num_tokens == 3


async def test_a_view_that_is_missing_names_the_steps_that_exist(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    await store(sessions, attempt, make_token_view(0), make_token_view(5))
    with pytest.raises(NotFound, match="after the steps 0, 5"):
        await read(sessions, attempt, 3)
    with pytest.raises(NotFound, match="never viewed"):
        await read(sessions, attempt, 0, 7)


async def test_many_steps_are_thinned_out_over_the_whole_run(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    await store(sessions, attempt, *(make_token_view(step, sample) for step in range(9) for sample in (0, 1)))
    async with sessions.begin() as session:
        await token_views.thin_out(session, attempt.experiment_id, "sft", max_steps=8)
    assert await places(sessions, attempt, sample_index=1) == [(step, 1) for step in (0, 2, 4, 6, 8)]


async def test_a_repeated_report_stores_its_views_once(sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    for step in (0, 7):
        async with sessions.begin() as session:
            await reporting.take_report(session, attempt, make_report(1, token_views=[make_token_view(step)]))
    assert await places(sessions, attempt) == [(0, 0)]
