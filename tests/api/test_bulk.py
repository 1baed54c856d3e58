"""One order for many experiments."""

import httpx
import pytest

from service import auth
from service.contract.access import ProjectRole
from service.storage.database import Sessions
from tests.factories import make_attempt, make_experiment, make_user

pytestmark = pytest.mark.anyio
BULK = "/api/v1/experiments/bulk"


async def test_each_experiment_is_done_or_refused_by_itself(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        queued = (await make_experiment(session)).id
        running = (await make_attempt(session)).experiment_id

    answer = await client.post(BULK, json={"action": "hold", "ids": [running, queued, "exp-none"], "reason": "later"})

    outcomes = {item["id"]: (item["done"], item["code"]) for item in answer.json()["items"]}
    assert outcomes == {running: (False, "not_allowed_now"), queued: (True, None), "exp-none": (False, "not_found")}
    [waiting] = (await client.get("/api/v1/queue")).json()["queued"]
    assert (waiting["held_by"], waiting["held_reason"]) == ("ada", "later")


async def test_what_is_not_the_callers_is_refused_and_stays(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        others = (await make_experiment(session)).id
        bo = await make_user(session, "bo", role=ProjectRole.MEMBER)
        own = (await make_experiment(session, user=bo)).id
        anonymous.headers["Authorization"] = f"Bearer {(await auth.issue_token(session, bo, 'tests'))[1]}"

    reply = (await anonymous.post(BULK, json={"action": "cancel", "ids": [others, own]})).json()

    assert [(item["done"], item["code"]) for item in reply["items"]] == [(False, "forbidden"), (True, None)]
    assert (await anonymous.get(f"/api/v1/experiments/{others}")).json()["status"] == "queued"


@pytest.mark.parametrize(
    "wrong", [{"action": "priority"}, {"action": "cancel", "priority": "high"}, {"action": "retry", "reason": "x"}]
)
async def test_an_order_that_does_not_fit_together_is_refused(client: httpx.AsyncClient, wrong: dict[str, str]) -> None:
    assert (await client.post(BULK, json={"ids": ["exp-1"], **wrong})).status_code == 422
    assert (await client.post(BULK, json={"ids": ["a", "a"], "action": "cancel"})).status_code == 422
