"""Experiments over HTTP."""

import asyncio
from typing import Any

import httpx
import pytest

from service import attempts
from service.contract.status import EndReason
from service.storage.database import Sessions
from service.storage.tables import ClusterState
from tests.factories import NOW, make_attempt, make_experiment, make_stage_result, make_user, spec_body

pytestmark = pytest.mark.anyio
EXPERIMENTS = "/api/v1/experiments"


async def submitted(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post(EXPERIMENTS, json=spec_body(**changes))
    assert answer.status_code == 201, answer.text
    experiment: dict[str, Any] = answer.json()
    return experiment


async def test_a_submitted_experiment_is_queued_and_shown(client: httpx.AsyncClient) -> None:
    made = await submitted(client, tags=["a"], description="why")
    assert (made["status"], made["queue_position"], made["user"], made["project"]) == ("queued", 1, "ada", "default")
    assert made["spec"]["sft"]["max_length"] == 2048
    shown = (await client.get(f"{EXPERIMENTS}/{made['id']}")).json()
    assert shown == made


async def test_dry_run_resolves_and_stores_nothing(client: httpx.AsyncClient) -> None:
    answer = await client.post(EXPERIMENTS, params={"dry_run": True}, json=spec_body())
    assert (answer.status_code, answer.json()["plan"]["num_cpus"]) == (200, 2.0)
    assert answer.json()["spec"]["seed"] == 0
    assert (await client.get(EXPERIMENTS)).json()["items"] == []


async def test_fifty_equal_posts_at_once_make_one_experiment(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "key"}
    posts = (client.post(EXPERIMENTS, json=spec_body(), headers=headers) for _ in range(50))
    answers = await asyncio.gather(*posts)
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert all(("Idempotency-Replayed" in answer.headers) == (answer.status_code == 200) for answer in answers)


async def test_the_order_of_keys_does_not_make_another_body(client: httpx.AsyncClient) -> None:
    body, headers = spec_body(), {"Idempotency-Key": "key"}
    await client.post(EXPERIMENTS, json=body, headers=headers)
    answer = await client.post(EXPERIMENTS, json=dict(reversed(body.items())), headers=headers)
    assert (answer.status_code, answer.headers["Idempotency-Replayed"]) == (200, "true")


async def test_pages_follow_their_cursor(client: httpx.AsyncClient) -> None:
    made = [(await submitted(client))["id"] for _ in range(3)]
    first = (await client.get(EXPERIMENTS, params={"limit": 2})).json()
    second = (await client.get(EXPERIMENTS, params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [item["id"] for item in first["items"] + second["items"]] == made[::-1]
    assert second["next_cursor"] is None


async def test_cancel_and_retry(client: httpx.AsyncClient) -> None:
    path = f"{EXPERIMENTS}/{(await submitted(client))['id']}"
    cancelled = await client.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    retried = await client.post(f"{path}/retry")
    assert (retried.status_code, retried.json()["status"]) == (202, "queued")
    events = (await client.get(f"{path}/events")).json()
    assert [event["kind"] for event in events["items"]] == ["status", "cancel_requested", "status", "status"]
    assert events["next_after"] is None


async def test_events_page_on(client: httpx.AsyncClient) -> None:
    path = f"{EXPERIMENTS}/{(await submitted(client))['id']}"
    await client.post(f"{path}/cancel")
    first = (await client.get(f"{path}/events", params={"limit": 2})).json()
    rest = (await client.get(f"{path}/events", params={"after": first["next_after"]})).json()
    assert (len(first["items"]), len(rest["items"]), rest["next_after"]) == (2, 1, None)


async def test_an_experiment_shows_attempts_results_and_evidence(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session, max_retries=0)
        await attempts.record_stage_result(session, attempt, make_stage_result(metrics={"x": float("nan")}))
        await attempts.end_attempt(session, attempt, EndReason.NON_FINITE, "loss is NaN", {"loss": float("nan")})
    shown = (await client.get(f"{EXPERIMENTS}/{attempt.experiment_id}")).json()
    assert (shown["status"], shown["end_reason"], shown["message"]) == ("failed", "non_finite", "loss is NaN")
    assert shown["attempts"][0]["evidence"] == {"loss": "NaN"}
    assert shown["stage_results"][0]["metrics"] == {"x": "NaN"}


async def test_the_queue_shows_who_runs_who_waits_and_why(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        live = await make_attempt(session)
        waiting = await make_experiment(session)
        session.add(ClusterState(id=1, observed_at=NOW, reachable=True, num_cpus=4, num_gpus=0, message=""))
    shown = (await client.get("/api/v1/queue")).json()
    assert [item["id"] for item in shown["running"]] == [live.experiment_id]
    assert [(item["id"], item["queue_position"]) for item in shown["queued"]] == [(waiting.id, 1)]
    assert (shown["cluster"]["num_cpus"], shown["cluster"]["num_cpus_taken"]) == (4.0, 1.0)


async def test_the_queue_of_a_cluster_never_seen(client: httpx.AsyncClient) -> None:
    nothing = {"cluster": None, "running": [], "queued": [], "num_queued": 0, "decided_at": None}
    assert (await client.get("/api/v1/queue")).json() == nothing


async def test_me_and_schema(client: httpx.AsyncClient) -> None:
    me = (await client.get("/api/v1/me")).json()
    assert (me["user"], me["scope"], me["projects"]) == ("ada", "admin", {"default": "maintainer"})
    del client.headers["Authorization"]
    assert "sft" in (await client.get("/api/v1/schema/experiment")).json()["properties"]


async def test_no_answer_holds_a_token(client: httpx.AsyncClient, token: str, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        user = await make_user(session)
    made = await submitted(client)
    for path in ("/api/v1/me", EXPERIMENTS, f"{EXPERIMENTS}/{made['id']}", "/api/v1/queue", "/openapi.json"):
        text = (await client.get(path)).text
        assert token not in text and user.id not in text and "token_sha256" not in text
