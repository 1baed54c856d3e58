"""Metrics, logs and rollouts over HTTP."""

from math import inf, nan
from typing import Any

import httpx
import pytest

from api.schemas import LogPage, MetricNamePage, MetricSeriesPage, RolloutPage
from service import log_store, metric_store
from service.contract.messages import LogLine, MetricPoint, RolloutSample
from service.storage.database import Sessions
from tests.factories import NOW, make_attempt

pytestmark = pytest.mark.anyio


@pytest.fixture
async def url(sessions: Sessions) -> str:
    """Path of an experiment with 5 points, 5 lines and 5 completions."""
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        values = [1.0, nan, inf, -inf, 5.0]
        points = [MetricPoint(name="sft/loss", step=step, value=v, ts=NOW) for step, v in enumerate(values)]
        await metric_store.append_points(session, attempt, [*points, MetricPoint(name="own", step=1, value=2, ts=NOW)])
        await log_store.append_lines(session, attempt, [LogLine(ts=NOW, text=f"line {n}") for n in range(5)])
        await log_store.append_rollouts(session, attempt, [make_rollout(step) for step in range(5)])
    return f"/api/v1/experiments/{attempt.experiment_id}"


def make_rollout(step: int) -> RolloutSample:
    return RolloutSample(
        stage="rl",
        step=step,
        prompt_uid=7,
        sample_index=0,
        prompt="3 5 7 -> 22 :",
        completion="3 * 5 = 15",
        answer="3 5 7 -> 22",
        reward=nan,
        num_tokens=6,
        policy_version=step,
    )


async def get(client: httpx.AsyncClient, url: str, **query: Any) -> httpx.Response:
    response = await client.get(url, params=query)
    assert response.status_code == 200, response.text
    return response


async def test_values_that_are_not_finite_arrive_as_strings(client: httpx.AsyncClient, url: str) -> None:
    response = await get(client, f"{url}/metrics", name="sft/loss")
    [series] = response.json()["series"]
    assert [point["value"] for point in series["points"]] == [1.0, "NaN", "Infinity", "-Infinity", 5.0]
    assert (series["kind"], series["num_points"], series["unit"]) == ("points", 5, "nats/token")
    assert series["attempts"] == [{"number": 1, "first_step": 0}]
    assert MetricSeriesPage.model_validate_json(response.content).series[0].points[4].value == 5.0


async def test_more_points_than_wanted_arrive_as_an_envelope(client: httpx.AsyncClient, url: str) -> None:
    [series] = (await get(client, f"{url}/metrics", name="sft/loss", max_points=2)).json()["series"]
    assert (series["kind"], series["points"]) == ("envelope", [])
    assert [bucket["num_points"] for bucket in series["envelope"]] == [3, 2]
    assert series["envelope"][1]["max"] == 5.0


async def test_without_names_every_series_arrives(client: httpx.AsyncClient, url: str) -> None:
    page = (await get(client, f"{url}/metrics")).json()
    assert [series["name"] for series in page["series"]] == ["own", "sft/loss"]


async def test_steps_bound_a_series(client: httpx.AsyncClient, url: str) -> None:
    [series] = (await get(client, f"{url}/metrics", name="sft/loss", from_step=3, to_step=4)).json()["series"]
    assert [point["step"] for point in series["points"]] == [3, 4]


async def test_names_come_with_meaning_and_newest_value(client: httpx.AsyncClient, url: str) -> None:
    page = MetricNamePage.model_validate_json((await get(client, f"{url}/metrics/names")).content)
    assert [(entry.name, entry.num_points, entry.last_value) for entry in page.items] == [
        ("own", 1, 2.0),
        ("sft/loss", 5, 5.0),
    ]
    assert page.items[1].meaning


async def test_logs_page_forward_and_from_the_end(client: httpx.AsyncClient, url: str) -> None:
    first = LogPage.model_validate_json((await get(client, f"{url}/logs", limit=3)).content)
    rest = LogPage.model_validate_json((await get(client, f"{url}/logs", after=first.next_after, limit=3)).content)
    newest = LogPage.model_validate_json((await get(client, f"{url}/logs", tail=2)).content)
    assert [line.text for line in first.items + rest.items] == [f"line {number}" for number in range(5)]
    assert rest.next_after is None
    assert [(line.text, line.attempt_number) for line in newest.items] == [("line 3", 1), ("line 4", 1)]


async def test_logs_are_searched_listed_by_source_and_downloaded(client: httpx.AsyncClient, url: str) -> None:
    found = LogPage.model_validate_json((await get(client, f"{url}/logs", search="INE 3", attempt=1)).content)
    assert [line.text for line in found.items] == ["line 3"]
    assert (await get(client, f"{url}/logs/sources")).json() == {"items": ["driver"]}
    text = (await get(client, f"{url}/logs/download")).text
    assert [line.split(" ", 3)[1:] for line in text.splitlines()[:1]] == [["1", "driver", "line 0"]]


async def test_rollouts_page_backward(client: httpx.AsyncClient, url: str) -> None:
    first = RolloutPage.model_validate_json((await get(client, f"{url}/rollouts", limit=3)).content)
    rest = RolloutPage.model_validate_json((await get(client, f"{url}/rollouts", before=first.next_before)).content)
    assert [sample.step for sample in first.items + rest.items] == [4, 3, 2, 1, 0]
    assert rest.next_before is None


@pytest.mark.parametrize(
    "path", ["metrics", "metrics/names", "logs", "logs/sources", "logs/download", "rollouts", "stream"]
)
async def test_an_unknown_experiment_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"/api/v1/experiments/exp-unknown/{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path", ["metrics", "metrics/names", "logs", "logs/sources", "logs/download", "rollouts", "stream"]
)
async def test_a_token_is_needed(anonymous: httpx.AsyncClient, path: str) -> None:
    assert (await anonymous.get(f"/api/v1/experiments/exp-unknown/{path}")).status_code == 401


@pytest.mark.parametrize("query", ["metrics?max_points=0", "logs?limit=2001", "rollouts?stage=nope"])
async def test_a_query_out_of_bounds_is_refused(client: httpx.AsyncClient, url: str, query: str) -> None:
    assert (await client.get(f"{url}/{query}")).status_code == 422
