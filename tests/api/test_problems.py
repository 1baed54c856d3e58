"""Every misuse gets a problem document that says what is wrong and what to do."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import create_app
from api.cursors import encode_list_start
from service import auth
from service.contract.plan import ExperimentPlan
from service.contract.spec import ExperimentSpec
from service.listing import ListStart
from service.planning import Capacity
from service.settings import ApiSettings
from service.storage.database import Sessions, create_engine
from service.storage.tables import ClusterState
from tests.api.conftest import plan_anything, serving
from tests.factories import NOW, make_user, spec_body

pytestmark = pytest.mark.anyio
EXPERIMENTS = "/api/v1/experiments"


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The document, after checking what all of them share."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document: dict[str, Any] = answer.json()
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code)
    assert document["type"] == f"urn:sedray:problem:{code}"
    assert document["title"] and document["detail"] and "Traceback" not in answer.text
    return document


def finding(document: dict[str, Any]) -> tuple[str, str, str]:
    """The first of the document's findings."""
    first = document["errors"][0]
    return first["field"], first["problem"], first.get("hint", "")


async def test_unknown_key_names_the_nearest(client: httpx.AsyncClient) -> None:
    sft = {**spec_body()["sft"], "batchsize": 8}
    document = problem(await client.post(EXPERIMENTS, json=spec_body(sft=sft)), 422, "invalid_spec")
    assert finding(document) == ("sft.batchsize", "unknown key 'batchsize'", "did you mean 'batch_size'?")
    assert "batch_size" in document["detail"]


async def test_all_findings_are_listed_at_once(client: httpx.AsyncClient) -> None:
    body = spec_body(name="", seed=-1, tags="x", priority="hi", nonsense=1)
    document = problem(await client.post(EXPERIMENTS, json=body), 422, "invalid_spec")
    assert {entry["field"] for entry in document["errors"]} == {"name", "seed", "tags", "priority", "nonsense"}
    assert "and 2 more" in document["detail"]


async def test_wrong_type_is_not_converted(client: httpx.AsyncClient) -> None:
    document = problem(await client.post(EXPERIMENTS, json=spec_body(seed="7")), 422, "invalid_spec")
    assert finding(document)[0] == "seed"


async def test_a_batch_that_does_not_divide(client: httpx.AsyncClient) -> None:
    rl = {
        "data": {"path": "/data/rl.jsonl"},
        "reward": {"type": "countdown"},
        "optimizer": {"learning_rate": 0.0},
        "num_steps": 5,
        "num_prompts_per_step": 2,
        "num_generations": 4,
        "mini_batch_size": 3,
        "max_completion_length": 32,
    }
    document = problem(await client.post(EXPERIMENTS, json=spec_body(rl=rl)), 422, "invalid_spec")
    assert "3 does not divide the 8 samples" in finding(document)[1]


async def test_unknown_project_names_the_nearest(client: httpx.AsyncClient) -> None:
    document = problem(await client.post(EXPERIMENTS, json=spec_body(project="defalt")), 422, "invalid_spec")
    assert finding(document)[2] == "did you mean 'default'?"


async def test_impossible_resources_cannot_run(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        session.add(ClusterState(id=1, observed_at=NOW, reachable=True, num_cpus=1, num_gpus=0, message=""))
    document = problem(await client.post(EXPERIMENTS, json=spec_body()), 422, "cannot_run")
    assert finding(document)[:2] == ("resources", "needs 2 CPUs, the cluster has 1")
    dry = await client.post(EXPERIMENTS, params={"dry_run": True}, json=spec_body())
    assert problem(dry, 422, "cannot_run")["errors"] == document["errors"]


@pytest.mark.parametrize(
    ("content", "what"),
    [(b'{"name": ', "not JSON"), (b"[]", "dict"), (b"", "required"), (b"[" * 50_000, "parsing"), (b"\xff", "UTF-8")],
)
async def test_a_body_that_is_no_object(client: httpx.AsyncClient, content: bytes, what: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post(EXPERIMENTS, content=content, headers=headers)
    assert what in problem(answer, 422, answer.json()["code"])["detail"]


@pytest.mark.parametrize("content", [b"\xe9", b"[" * 100_000])
async def test_a_body_that_nobody_can_read(client: httpx.AsyncClient, content: bytes) -> None:
    answer = await client.post(EXPERIMENTS, content=content, headers={"Content-Type": "application/json"})
    assert "UTF-8" in problem(answer, 422, "invalid_request")["detail"]


async def test_a_body_of_another_media_type(client: httpx.AsyncClient) -> None:
    answer = await client.post(EXPERIMENTS, content=b"name: toy", headers={"Content-Type": "application/yaml"})
    assert "application/json" in finding(problem(answer, 422, "invalid_spec"))[2]


async def test_idempotency_key_with_another_body(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "key"}
    first = (await client.post(EXPERIMENTS, json=spec_body(), headers=headers)).json()
    answer = await client.post(EXPERIMENTS, json=spec_body(name="other"), headers=headers)
    assert problem(answer, 409, "idempotency_conflict")["experiment_id"] == first["id"]


async def test_idempotency_key_that_is_too_long(client: httpx.AsyncClient) -> None:
    answer = await client.post(EXPERIMENTS, json=spec_body(), headers={"Idempotency-Key": "x" * 201})
    assert "idempotency-key" in finding(problem(answer, 422, "invalid_request"))[0]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"status": "done"}, "status"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "é"}, "cursor"),
        ({"cursor": "WzEsMl0"}, "cursor"),
        ({"cursor": encode_list_start(ListStart(value=NOW.replace(tzinfo=None), id="x"), "newest")}, "cursor"),
    ],
)
async def test_a_query_that_cannot_be_read(client: httpx.AsyncClient, query: dict[str, str], field: str) -> None:
    answer = await client.get(EXPERIMENTS, params=query)
    assert finding(problem(answer, 422, "invalid_request"))[0] == field


@pytest.mark.parametrize("name", ["\0", "a\0b"])
async def test_nul_characters_are_refused_and_not_a_fault(client: httpx.AsyncClient, name: str) -> None:
    problem(await client.get(EXPERIMENTS, params={"name": name}), 422, "invalid_request")
    answer = await client.post(EXPERIMENTS, json=spec_body(name=f"x{name}"))
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("path", ["", "/cancel", "/retry", "/events"])
async def test_unknown_experiment(client: httpx.AsyncClient, path: str) -> None:
    method = "POST" if path in ("/cancel", "/retry") else "GET"
    problem(await client.request(method, f"{EXPERIMENTS}/exp-none{path}"), 404, "not_found")


async def test_what_the_status_does_not_allow(client: httpx.AsyncClient) -> None:
    path = f"{EXPERIMENTS}/{(await client.post(EXPERIMENTS, json=spec_body())).json()['id']}"
    problem(await client.post(f"{path}/retry"), 409, "not_allowed_now")
    await client.post(f"{path}/cancel")
    problem(await client.post(f"{path}/cancel"), 409, "not_allowed_now")


async def test_unknown_path_and_method(client: httpx.AsyncClient) -> None:
    problem(await client.get("/api/v1/nothing"), 404, "not_found")
    answer = await client.delete(EXPERIMENTS)
    problem(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"] or "GET" in answer.headers["Allow"]


async def test_body_beyond_the_limit(client: httpx.AsyncClient) -> None:
    body = spec_body(description="x" * 1_000_001)
    problem(await client.post(EXPERIMENTS, json=body), 413, "body_too_large")


async def test_body_beyond_the_limit_without_a_declared_length(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 100_000

    answer = await client.post(EXPERIMENTS, content=chunks(), headers={"Content-Type": "application/json"})
    problem(answer, 413, "body_too_large")


@pytest.mark.parametrize("header", [None, "Bearer sr_wrong", "Basic YTpi", "Bearer"])
async def test_without_a_valid_token(anonymous: httpx.AsyncClient, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    answer = await anonymous.post(EXPERIMENTS, json={"not": "even looked at"}, headers=headers)
    problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_revoked_and_expired_tokens(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        user = await make_user(session)
        row, revoked = await auth.issue_token(session, user, "revoked")
        await auth.revoke_token(session, row.id)
        _, expired = await auth.issue_token(session, user, "expired", NOW.replace(year=2020))
    for secret in (revoked, expired):
        answer = await anonymous.get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"})
        problem(answer, 401, "unauthenticated")


async def test_cookie_reads_but_changes_only_from_our_own_page(anonymous: httpx.AsyncClient, token: str) -> None:
    anonymous.cookies.set("sedray_token", token)
    assert (await anonymous.get("/api/v1/me")).status_code == 200
    for origin in ({}, {"Origin": "http://evil.test"}, {"Origin": "null"}):
        answer = await anonymous.post(EXPERIMENTS, json=spec_body(), headers=origin)
        problem(answer, 403, "cross_site_request")
    ours = {"Origin": "http://sedray.test"}
    assert (await anonymous.post(EXPERIMENTS, json=spec_body(), headers=ours)).status_code == 201


async def test_a_fault_of_the_service_shows_no_traceback(
    settings: ApiSettings, engine: AsyncEngine, token: str
) -> None:
    async def broken(spec: ExperimentSpec, capacity: Capacity | None) -> ExperimentPlan:
        raise RuntimeError("secret detail")

    app = create_app(settings, engine=engine, plan=broken)
    async with serving(app, Authorization=f"Bearer {token}") as client:
        answer = await client.post(EXPERIMENTS, json=spec_body())
        assert "secret detail" not in problem(answer, 500, "internal_error")["detail"]
        assert answer.headers["X-Request-Id"].startswith("req-")


async def test_an_absent_database_is_not_the_callers_fault(settings: ApiSettings) -> None:
    nowhere = create_engine("postgresql+psycopg://postgres@/x?host=/nonexistent")
    app: FastAPI = create_app(settings, engine=nowhere, plan=plan_anything)
    async with serving(app, Authorization="Bearer sr_x") as client:
        answer = await client.get("/api/v1/me")
        problem(answer, 503, "database_unavailable")
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["database"]) == (503, "does not answer")
    await nowhere.dispose()
