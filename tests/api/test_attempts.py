"""The drivers' side over HTTP."""

from typing import Any

import httpx
import pytest
from sqlalchemy import text

from service import attempts, experiments
from service.auth import attempt_token
from service.contract.messages import StartReply
from service.contract.status import EndReason
from service.storage.database import Sessions
from service.storage.tables import Attempt
from tests.api.conftest import SECRET
from tests.factories import make_attempt, make_finish, make_stage_result, make_user

pytestmark = pytest.mark.anyio


class Driver:
    """Calls as one attempt's driver does."""

    def __init__(self, client: httpx.AsyncClient, attempt: Attempt) -> None:
        self._client = client
        self._base = f"/api/v1/attempts/{attempt.id}"
        self._headers = {"Authorization": f"Bearer {attempt_token(SECRET, attempt.id, attempt.number)}"}

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self._client.post(self._base + path, json=body, headers=self._headers)


async def new_attempt(sessions: Sessions, *, started: bool = True, **spec: Any) -> Attempt:
    async with sessions.begin() as session:
        return await make_attempt(session, started=started, **spec)


async def test_a_whole_life(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    attempt = await new_attempt(sessions, started=False)
    driver = Driver(anonymous, attempt)
    reply = StartReply.model_validate_json((await driver.post("/start")).content)
    assert (reply.attempt_number, reply.output_dir) == (1, f"/outputs/{attempt.experiment_id}")
    point = {"name": "sft/loss", "step": 1, "value": "NaN", "ts": "2026-03-01T12:00:00Z"}
    ack = await driver.post("/reports", {"seq": 1, "points": [point]})
    assert ack.json() == {"seq": 1, "duplicate": False, "cancel": False, "preempt": False, "lent_engines": []}
    result = make_stage_result().model_dump(mode="json")
    assert (await driver.post("/stage-results", result)).status_code == 204
    for _ in range(2):
        assert (await driver.post("/finish", make_finish().model_dump(mode="json"))).status_code == 204
    async with sessions.begin() as session:
        experiment = await experiments.get(session, attempt.experiment_id)
        assert (experiment.status, experiment.end_reason) == ("succeeded", "completed")


async def test_a_repeated_report_is_acknowledged_and_stored_once(client: httpx.AsyncClient, sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    points = [{"name": "sft/loss", "step": s, "value": 1.0, "ts": "2026-03-01T12:00:00Z"} for s in range(3)]
    lines = [{"ts": "2026-03-01T12:00:00Z", "text": "hello"}]
    report = {"seq": 1, "points": points, "log_lines": lines}
    answers = [(await Driver(client, attempt).post("/reports", report)).json() for _ in range(2)]
    assert [answer["duplicate"] for answer in answers] == [False, True]
    async with sessions.begin() as session:
        assert await session.scalar(text("SELECT num_points FROM metric_series")) == 3
        assert await session.scalar(text("SELECT count(*) FROM log_lines")) == 1


async def test_an_acknowledgement_carries_the_wish_to_cancel(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    async with sessions.begin() as session:
        await experiments.cancel(session, attempt.experiment_id, user=await make_user(session))
    driver = Driver(anonymous, attempt)
    assert (await driver.post("/reports", {"seq": 1})).json()["cancel"] is True
    stopped = make_finish(EndReason.CANCELLED_BY_USER).model_dump(mode="json")
    assert (await driver.post("/finish", stopped)).status_code == 204
    async with sessions.begin() as session:
        assert (await experiments.get(session, attempt.experiment_id)).status == "cancelled"


async def test_a_gap_names_the_expected_report(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    answer = await Driver(anonymous, await new_attempt(sessions)).post("/reports", {"seq": 3})
    assert (answer.status_code, answer.json()["code"], answer.json()["expected_seq"]) == (422, "report_gap", 1)


async def test_a_stale_attempt_gets_409_for_everything(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    attempt = await new_attempt(sessions)
    async with sessions.begin() as session:
        await attempts.end_attempt(session, attempt, EndReason.HEARTBEAT_LOST, "silent", {})
    driver = Driver(anonymous, attempt)
    for path, body in (
        ("/start", None),
        ("/reports", {"seq": 1}),
        ("/stage-results", make_stage_result().model_dump(mode="json")),
        ("/finish", make_finish().model_dump(mode="json")),
    ):
        answer = await driver.post(path, body)
        assert (answer.status_code, answer.json()["code"]) == (409, "stale_attempt")


async def test_a_token_opens_its_own_attempt_only(client: httpx.AsyncClient, sessions: Sessions, token: str) -> None:
    mine, other = await new_attempt(sessions), await new_attempt(sessions)
    for secret in (attempt_token(SECRET, mine.id, mine.number), token, "sa_", "sä"):
        headers = {b"Authorization": f"Bearer {secret}".encode()}
        answer = await client.post(f"/api/v1/attempts/{other.id}/start", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    as_person = {"Authorization": f"Bearer {attempt_token(SECRET, mine.id, mine.number)}"}
    assert (await client.get("/api/v1/me", headers=as_person)).status_code == 401


async def test_an_unknown_attempt_looks_like_a_wrong_token(anonymous: httpx.AsyncClient) -> None:
    headers = {"Authorization": f"Bearer {attempt_token(SECRET, 'none', 0)}"}
    answer = await anonymous.post("/api/v1/attempts/none/start", headers=headers)
    assert answer.status_code == 401


async def test_a_report_that_does_not_fit_the_contract(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    answer = await Driver(anonymous, await new_attempt(sessions)).post("/reports", {"seq": 1, "pionts": []})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["hint"] == "did you mean 'points'?"


async def test_evidence_with_odd_values_is_kept(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    attempt = await new_attempt(sessions, max_retries=0)
    body = '{"reason": "stage_failed", "message": "a\\u0000b", "evidence": {"x": NaN, "y": "\\ud800"}}'
    headers = {
        "Authorization": f"Bearer {attempt_token(SECRET, attempt.id, 1)}",
        "Content-Type": "application/json",
    }
    answer = await anonymous.post(f"/api/v1/attempts/{attempt.id}/finish", content=body, headers=headers)
    assert answer.status_code == 204, answer.text
    async with sessions.begin() as session:
        stored = await session.get_one(Attempt, attempt.id)
        assert (stored.message, stored.evidence["x"], stored.evidence["y"]) == ("a\ufffdb", "NaN", "?")
