"""The pages, as a browser without scripts sees them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from api.web.charts import RL_CHARTS, SED_CHARTS, SFT_CHARTS, Chart, sft_charts
from api.web.page_routes import HERE
from service import attempts, reporting
from service.contract.messages import RunEvent
from service.contract.metric_names import describe_metric
from service.contract.objectives import CrossEntropyObjective, EksftObjective, GiftObjective, SedObjective
from service.storage.database import Sessions
from tests.factories import (
    make_attempt,
    make_experiment,
    make_report,
    make_run_event,
    make_stage_result,
    make_token_view,
    spec_body,
)

pytestmark = pytest.mark.anyio
ATTACK = "'><script>alert(1)</script>"


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


async def page_after_sft(
    anonymous: httpx.AsyncClient,
    token: str,
    sessions: Sessions,
    *,
    sft: dict[str, Any],
    detail: Mapping[str, Any] = MappingProxyType({}),
    events: Sequence[RunEvent] = (),
) -> str:
    """The page of an experiment whose SFT stage told of these events and left this detail behind."""
    async with sessions.begin() as session:
        attempt = await make_attempt(session, sft={**spec_body()["sft"], **sft})
        await reporting.take_report(session, attempt, make_report(events=list(events)))
        await attempts.record_stage_result(session, attempt, make_stage_result(detail=dict(detail)))
    await log_in(anonymous, token)
    return (await anonymous.get(f"/experiments/{attempt.experiment_id}")).text


async def test_the_token_view_is_there_where_samples_are_held_out(
    anonymous: httpx.AsyncClient, token: str, sessions: Sessions
) -> None:
    with_samples = await page_after_sft(anonymous, token, sessions, sft={"holdout_fraction": 0.1})
    without = await page_after_sft(anonymous, token, sessions, sft={})

    assert 'id="token-view"' in with_samples and "/static/token_view.js" in with_samples
    assert "token-view" not in without and "token_view.js" not in without


async def test_the_calibration_of_tau_is_drawn_as_soon_as_the_driver_tells(
    anonymous: httpx.AsyncClient, token: str, sessions: Sessions
) -> None:
    told = {"tau": 0.5, "top_k": 3, "low": 0.0, "high": 1.0, "counts": [3, 1], "note": ATTACK}
    event = make_run_event("tau_calibrated", detail=told)
    sed = {"objective": {"type": "sed", "top_k": 3}}

    page = await page_after_sft(anonymous, token, sessions, sft=sed, events=[event])

    drawn = re.search("data-histogram='(.*?)'", page)
    assert drawn is not None
    assert json.loads(drawn[1]) == told
    assert "data-histogram='{}'" in await page_after_sft(anonymous, token, sessions, sft=sed)
    assert "data-histogram" not in await page_after_sft(anonymous, token, sessions, sft={})


async def test_what_sft_left_is_shown_and_escaped(anonymous: httpx.AsyncClient, token: str, sessions: Sessions) -> None:
    detail = {"num_dropped": 3, "best_checkpoints": [{"step": 20, "value": 0.5}], "data_sha256": ATTACK}

    page = await page_after_sft(anonymous, token, sessions, sft={}, detail=detail)

    assert "<script>alert" not in page
    assert "&gt;&lt;script&gt;alert" in page
    assert "step 20 (0.5)" in page


async def test_tokens_reach_a_browser_as_json_alone(
    anonymous: httpx.AsyncClient, token: str, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, sft={**spec_body()["sft"], "holdout_fraction": 0.1})
        views = [make_token_view(tokens=["a", ATTACK, "b"])]
        await reporting.take_report(session, attempt, make_report(token_views=views))
    await log_in(anonymous, token)

    page = await anonymous.get(f"/experiments/{attempt.experiment_id}")
    view = await anonymous.get(f"/api/v1/experiments/{attempt.experiment_id}/token-views/sft/0/0")

    assert "alert(1)" not in page.text
    assert (view.headers["content-type"], view.json()["tokens"][1]) == ("application/json", ATTACK)


@pytest.mark.parametrize("script", sorted((HERE / "static").glob("*.js")), ids=lambda script: script.name)
def test_no_script_turns_text_into_markup(script: Path) -> None:
    orders = r"\.(inner|outer)HTML\s*=[^=]|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(orders, script.read_text())


@pytest.mark.parametrize(
    "path",
    [
        "plotly.min.js",
        "style.css",
        "service.js",
        "plot_style.js",
        "charts.js",
        "experiment.js",
        "token_view.js",
        "token_panes.js",
        "study_report.js",
    ],
)
async def test_scripts_and_styles_come_from_the_service_itself(anonymous: httpx.AsyncClient, path: str) -> None:
    assert (await anonymous.get(f"/static/{path}")).status_code == 200


def test_the_series_of_a_chart_are_told_apart_by_what_differs() -> None:
    assert Chart(title="", names=("sft/entropy", "sft/eval/entropy")).labels == ["training", "eval"]
    assert Chart(title="", names=("sft/sed/kept/prob", "sft/sed/penalised/prob")).labels == ["kept", "penalised"]
    assert Chart(title="", names=("sft/loss", "sft/nll", "sft/eval/nll")).labels == ["loss", "nll", "eval/nll"]
    assert Chart(title="", names=("reward/mean", "reward/std")).labels == ["mean", "std"]
    assert Chart(title="", names=("actor/entropy",)).labels == ["actor/entropy"]


def test_every_chart_shows_registered_metrics_of_one_unit() -> None:
    for chart in (*SFT_CHARTS, *SED_CHARTS, *RL_CHARTS):
        metrics = [describe_metric(name) for name in chart.names]
        assert all(metrics), chart.names
        assert len({metric.unit for metric in metrics if metric}) == 1, chart.names


def test_an_objective_gets_the_charts_of_its_own_metrics() -> None:
    own = {
        objective.type: {name.split("/")[1] for chart in sft_charts(objective) for name in chart.names}
        & {"eksft", "reference"}
        for objective in (CrossEntropyObjective(), SedObjective(), GiftObjective(), EksftObjective())
    }
    assert own == {"ce": set(), "sed": set(), "gift": {"reference"}, "eksft": {"eksft", "reference"}}
