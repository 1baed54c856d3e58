"""Comparisons over HTTP and from the command line: who sees what, and how much at once."""

import httpx
import pytest
from sqlalchemy import select

from service.storage.database import Sessions
from service.storage.study_tables import StudyRun
from service.tenancy import projects
from tests.api.study_world import end_runs, submit_study
from tests.factories import make_experiment, make_user

pytestmark = pytest.mark.anyio
COMPARE = "/api/v1/compare"


async def test_a_study_is_compared_by_arms(client: httpx.AsyncClient, sessions: Sessions) -> None:
    study_id = await submit_study(client)
    await end_runs(sessions, study_id, 1, 2, 3)
    found = (await client.get(COMPARE, params={"study": study_id})).json()
    assert (found["by"], [one["label"] for one in found["groups"]]) == (["arm"], ["ce", "sed"])
    row = next(one for one in found["results"] if one["metric"] == "eval/test/pass@1")
    assert row["stage"] == "evaluate_after_rl" and row["figures"][1]["num_units"] == 3
    assert row["figures"][1]["mean"] > row["figures"][0]["mean"]
    reward = next(one for one in found["curves"] if one["metric"] == "reward/mean")["curves"][0]
    assert reward["mean"] == pytest.approx([0.1, 0.2])
    assert (reward["seconds"], reward["tokens"]) == ([3.0, 6.0], [40.0, 80.0])
    assert any("not over yet" in text for text in found["warnings"])
    async with sessions() as session:
        two = list(await session.scalars(select(StudyRun.experiment_id).order_by(StudyRun.position).limit(2)))
    query = {"ids": ",".join(reversed(two)), "by": "seed", "metric": ""}
    found = (await client.get(COMPARE, params=query)).json()
    assert [one["id"] for one in found["experiments"]] == two[::-1] and found["curves"] == []
    page = await client.get("/compare", params={"study": study_id})
    assert page.status_code == 200 and page.text.count("data-plot=") == 3
    assert (await client.get("/compare")).status_code == 200
    assert (await client.get(f"{COMPARE}.md", params={"study": study_id})).text.startswith("# Comparison")


async def test_what_one_may_not_see_is_not_there(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        own = await make_experiment(session)
        await projects.create(session, None, "secret")
        other = await make_experiment(session, user=await make_user(session, "eve"), project="secret", tags=["x"])
    answer = await client.get(COMPARE, params={"ids": f"{own.id},{other.id}"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found") and other.id in answer.json()["detail"]
    found = (await client.get(COMPARE, params={"tag": "x"})).json()
    assert found["experiments"] == [] and found["groups"] == []


async def test_nothing_chosen_and_too_much_are_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get(COMPARE)
    assert answer.status_code == 422 and "give ids, or one of study, tag and name" in answer.json()["detail"]
    many = ",".join(f"exp-{number}" for number in range(201))
    assert "at most 200" in (await client.get(COMPARE, params={"ids": many})).json()["detail"]
    metrics = ",".join(f"m/{number}" for number in range(13))
    assert "at most 12" in (await client.get(COMPARE, params={"ids": "exp-1", "metric": metrics})).json()["detail"]
