"""What people order of the queue, over HTTP and from the command line."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import httpx
import pytest
from rich.console import Console

from api.cli.queue_tables import orders_view, priority_view, quotas_table
from api.queue_schemas import PriorityOut, QueueOrdersOut, QuotaOut, QuotaPage
from service import auth
from service.storage.database import Sessions
from tests.factories import make_attempt, make_experiment, make_user, spec_body

pytestmark = pytest.mark.anyio
API = "/api/v1"


@pytest.fixture
async def client(anonymous: httpx.AsyncClient, sessions: Sessions) -> httpx.AsyncClient:
    """A client that calls as `ada`, an admin and maintainer."""
    async with sessions.begin() as session:
        _, token = await auth.issue_token(session, await make_user(session, is_admin=True), "tests")
    anonymous.headers["Authorization"] = f"Bearer {token}"
    return anonymous


async def submitted(client: httpx.AsyncClient, **changes: Any) -> str:
    answer = await client.post(f"{API}/experiments", json=spec_body(**changes))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def kinds_of(client: httpx.AsyncClient, experiment_id: str) -> list[str]:
    events = (await client.get(f"{API}/experiments/{experiment_id}/events")).json()["items"]
    return [event["kind"] for event in events]


def shown(renderable: object) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


async def test_hold_and_release_leave_their_events(client: httpx.AsyncClient) -> None:
    path = f"{API}/experiments/{await submitted(client)}"
    assert (await client.post(f"{path}/hold", json={"reason": "look first"})).status_code == 200
    assert (await client.post(f"{path}/release")).status_code == 200
    assert (await client.post(f"{path}/release")).status_code == 200, "nothing is left to release"
    assert await kinds_of(client, path.rsplit("/", 1)[1]) == ["status", "held", "released"]


async def test_a_running_experiment_cannot_be_held(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
    answer = await client.post(f"{API}/experiments/{attempt.experiment_id}/hold", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_allowed_now")


async def test_priority_is_changed_and_told_with_what_was_before(client: httpx.AsyncClient) -> None:
    experiment_id = await submitted(client)
    path = f"{API}/experiments/{experiment_id}"
    answer = await client.post(f"{path}/priority", json={"priority": "high"})
    assert (answer.status_code, answer.json()["priority"]) == (200, "high")
    event = (await client.get(f"{path}/events")).json()["items"][-1]
    assert event["detail"] == {"before": {"priority": "normal"}, "after": {"priority": "high"}, "by": "ada"}
    assert (await client.post(f"{path}/priority", json={"priority": "top"})).status_code == 422


async def test_every_term_of_a_place_is_shown_before_the_scheduler_has_looked(client: httpx.AsyncClient) -> None:
    experiment_id = await submitted(client)
    answer = await client.get(f"{API}/experiments/{experiment_id}/priority")
    found = PriorityOut.model_validate(answer.json())
    assert (found.priority, found.queue_position, found.num_queued) == ("normal", 1, 1)
    assert (found.project.name, found.user.name, found.user.factor) == ("default", "ada", 1.0)
    assert (found.decided_at, found.start, found.reservation_at) == (None, None, None)
    text = shown(priority_view(found))
    assert "1. class" in text and "default: used 0.0% of all, meant to get 100.0%" in text
    assert (await client.get(f"{API}/experiments/exp-0/priority")).status_code == 404


async def test_pauses_of_a_project_and_of_the_queue_end_one_by_one(client: httpx.AsyncClient) -> None:
    await client.post(f"{API}/queue/pause", json={"reason": "disks", "drain": True})
    answer = await client.post(f"{API}/projects/default/pause", json={})
    orders = QueueOrdersOut.model_validate(answer.json())
    assert [(pause.project, pause.drain, pause.reason, pause.by) for pause in orders.pauses] == [
        (None, True, "disks", "ada"),
        ("default", False, "", "ada"),
    ]
    assert "the queue is drained by ada since" in shown(orders_view(orders))
    left = (await client.post(f"{API}/queue/resume")).json()["pauses"]
    assert [pause["project"] for pause in left] == ["default"]
    assert (await client.post(f"{API}/projects/other/pause", json={})).status_code == 404


async def test_maintenance_is_planned_and_taken_back(client: httpx.AsyncClient) -> None:
    begin = datetime.now(UTC) + timedelta(hours=1)
    window = {"starts_at": begin.isoformat(), "ends_at": (begin + timedelta(hours=2)).isoformat(), "reason": "disks"}
    planned = await client.post(f"{API}/queue/maintenance", json=window)
    assert planned.status_code == 201
    orders = QueueOrdersOut.model_validate((await client.get(f"{API}/queue/orders")).json())
    assert [found.reason for found in orders.maintenance] == ["disks"]
    assert "disks" in shown(orders_view(orders))
    path = f"{API}/queue/maintenance/{planned.json()['id']}"
    assert [(await client.delete(path)).status_code for _ in range(2)] == [200, 404]
    backwards = window | {"ends_at": window["starts_at"]}
    assert (await client.post(f"{API}/queue/maintenance", json=backwards)).status_code == 422
    naive = window | {"starts_at": "2026-01-01T00:00:00"}
    assert (await client.post(f"{API}/queue/maintenance", json=naive)).status_code == 422


async def test_quotas_are_set_and_shown_with_what_is_used(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await make_attempt(session)
        await make_experiment(session)
    await client.put(f"{API}/projects/default/quota", json={"max_gpus": 64, "shares": 2})
    answer = await client.put(f"{API}/projects/default/users/ada/quota", json={"max_queued": 3})
    assert QuotaOut.model_validate(answer.json()).num_queued == 1
    page = QuotaPage.model_validate((await client.get(f"{API}/queue/quotas")).json())
    assert [(quota.user, quota.shares, quota.num_running, quota.num_cpus) for quota in page.items] == [
        (None, 2.0, 1, 1.0),
        ("ada", 1.0, 1, 1.0),
    ]
    assert "1 of 3" in shown(quotas_table(page.items))
    assert (await client.put(f"{API}/projects/default/users/eve/quota", json={})).status_code == 404


async def test_submissions_beyond_the_quota_are_refused_and_store_nothing(client: httpx.AsyncClient) -> None:
    await client.put(f"{API}/projects/default/quota", json={"max_queued": 2})
    for _ in range(2):
        await submitted(client)
    answer = await client.post(f"{API}/experiments", json=spec_body())
    assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (403, "quota_exceeded", "max_queued")
    assert len((await client.get(f"{API}/experiments")).json()["items"]) == 2


async def test_a_repeated_submission_is_answered_although_the_quota_is_used_up(client: httpx.AsyncClient) -> None:
    await client.put(f"{API}/projects/default/quota", json={"max_queued": 1})
    headers = {"Idempotency-Key": "key"}
    first = await client.post(f"{API}/experiments", json=spec_body(), headers=headers)
    again = await client.post(f"{API}/experiments", json=spec_body(), headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


async def test_a_projects_default_runtime_is_for_those_who_do_not_say(client: httpx.AsyncClient) -> None:
    await client.put(f"{API}/projects/default/quota", json={"default_max_runtime_s": 600})
    specs = [
        (await client.get(f"{API}/experiments/{await submitted(client, **changes)}")).json()["spec"]
        for changes in ({}, {"max_runtime_s": 7200})
    ]
    assert [spec["max_runtime_s"] for spec in specs] == [600, 7200]


async def test_a_dependency_must_exist_in_the_project(client: httpx.AsyncClient) -> None:
    first = await submitted(client)
    await submitted(client, scheduling={"after": [first]})
    answer = await client.post(f"{API}/experiments", json=spec_body(scheduling={"after": ["exp-unknown"]}))
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "scheduling.after")
