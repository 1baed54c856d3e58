"""Token views over HTTP, from the driver's report to the reader."""

from typing import Any

import httpx
import pytest

from api.schemas import TokenViewPage
from service import reporting
from service.contract.messages import TokenView
from service.storage.database import Sessions
from tests.factories import make_attempt, make_report, make_token_view

pytestmark = pytest.mark.anyio


@pytest.fixture
async def url(sessions: Sessions) -> str:
    """Path of the views of an experiment whose samples 0 and 1 were looked at after the steps 0 and 5."""
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        views = [make_token_view(step, sample) for step in (0, 5) for sample in (0, 1)]
        await reporting.take_report(session, attempt, make_report(token_views=views))
    return f"/api/v1/experiments/{attempt.experiment_id}/token-views"


async def page_of(client: httpx.AsyncClient, url: str, **query: Any) -> TokenViewPage:
    response = await client.get(url, params=query)
    assert response.status_code == 200, response.text
    return TokenViewPage.model_validate_json(response.content)


async def test_the_list_says_what_was_looked_at(client: httpx.AsyncClient, url: str) -> None:
    page = await page_of(client, url)
    assert [(entry.step, entry.sample_index) for entry in page.items] == [(0, 0), (0, 1), (5, 0), (5, 1)]
    assert (page.items[0].stage, page.items[0].num_tokens, page.next_after) == ("sft", 3, None)


async def test_pages_and_filters_go_together(client: httpx.AsyncClient, url: str) -> None:
    first = await page_of(client, url, sample_index=1, limit=1)
    rest = await page_of(client, url, sample_index=1, limit=1, after=first.next_after)
    assert [(entry.step, entry.sample_index) for entry in first.items + rest.items] == [(0, 1), (5, 1)]
    assert rest.next_after is None
    assert [entry.sample_index for entry in (await page_of(client, url, stage="sft", step=5)).items] == [0, 1]


async def test_one_view_has_every_token(client: httpx.AsyncClient, url: str) -> None:
    response = await client.get(f"{url}/sft/5/1")
    assert TokenView.model_validate_json(response.content) == make_token_view(5, 1)


async def test_values_that_are_not_finite_arrive_as_strings(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        view = make_token_view(weights=[None, float("nan"), 1.0])
        await reporting.take_report(session, attempt, make_report(token_views=[view]))
    response = await client.get(f"/api/v1/experiments/{attempt.experiment_id}/token-views/sft/0/0")
    assert response.json()["weights"] == [None, "NaN", 1.0]


async def test_a_view_that_does_not_exist_is_a_problem_document(client: httpx.AsyncClient, url: str) -> None:
    response = await client.get(f"{url}/sft/3/0")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert "after the steps 0, 5" in response.json()["detail"]


@pytest.mark.parametrize("path", ["token-views", "token-views/sft/0/0"])
async def test_an_unknown_experiment_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"/api/v1/experiments/exp-unknown/{path}")
    assert (response.status_code, "there is no experiment" in response.json()["detail"]) == (404, True)


async def test_a_token_is_needed(anonymous: httpx.AsyncClient) -> None:
    for path in ("token-views", "token-views/sft/0/0"):
        assert (await anonymous.get(f"/api/v1/experiments/exp-1/{path}")).status_code == 401


@pytest.mark.parametrize("path", ["?limit=0", "?stage=nope", "/nope/0/0", "/sft/-1/0", f"/sft/0/{2**31}"])
async def test_a_query_out_of_bounds_is_refused(client: httpx.AsyncClient, url: str, path: str) -> None:
    assert (await client.get(url + path)).status_code == 422
