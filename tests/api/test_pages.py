"""The pages, as a browser without scripts sees them."""

import httpx
import pytest

from api.web.charts import RL_CHARTS, SFT_CHARTS
from service.contract.metric_names import describe_metric
from service.storage.database import Sessions
from tests.factories import make_experiment

pytestmark = pytest.mark.anyio


async def log_in(client: httpx.AsyncClient, token: str) -> None:
    answer = await client.get("/login", params={"token": token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_a_stranger_is_sent_to_the_log_in(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get("/experiments/exp-1")

    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=/experiments/exp-1"


async def test_the_log_in_link_sets_a_cookie_that_scripts_cannot_read(anonymous: httpx.AsyncClient, token: str) -> None:
    answer = await anonymous.get("/login", params={"token": token})

    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


async def test_a_wrong_token_is_refused_with_a_sentence(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.post("/login", content="token=sr_wrong")

    assert answer.status_code == 401
    assert 'role="alert"' in answer.text


@pytest.mark.parametrize("elsewhere", ["//evil.test", "https://evil.test", "/\\evil.test"])
async def test_the_log_in_never_leads_to_another_site(anonymous: httpx.AsyncClient, token: str, elsewhere: str) -> None:
    answer = await anonymous.get("/login", params={"token": token, "next": elsewhere})

    assert answer.headers["location"] == "/"


async def test_the_list_shows_experiments_and_escapes_their_names(
    anonymous: httpx.AsyncClient, token: str, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        experiment = await make_experiment(session, name="<script>alert(1)</script>")
    await log_in(anonymous, token)

    page = (await anonymous.get("/")).text

    assert f"/experiments/{experiment.id}" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


async def test_an_experiment_has_its_stages_charts_and_specification(
    anonymous: httpx.AsyncClient, token: str, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        experiment = await make_experiment(session)
    await log_in(anonymous, token)

    answer = await anonymous.get(f"/experiments/{experiment.id}")

    assert answer.status_code == 200
    assert 'class="chart"' in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]


async def test_an_unknown_experiment_is_a_page_not_a_traceback(anonymous: httpx.AsyncClient, token: str) -> None:
    await log_in(anonymous, token)

    answer = await anonymous.get("/experiments/exp-none")

    assert answer.status_code == 404
    assert "there is no experiment" in answer.text


@pytest.mark.parametrize("path", ["/static/plotly.min.js", "/static/style.css", "/static/experiment.js"])
async def test_scripts_and_styles_come_from_the_service_itself(anonymous: httpx.AsyncClient, path: str) -> None:
    assert (await anonymous.get(path)).status_code == 200


def test_every_chart_shows_registered_metrics_of_one_unit() -> None:
    for chart in (*SFT_CHARTS, *RL_CHARTS):
        metrics = [describe_metric(name) for name in chart.names]
        assert all(metrics), chart.names
        assert len({metric.unit for metric in metrics if metric}) == 1, chart.names
