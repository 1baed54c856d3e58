"""Users, tokens, webhooks and the audit log over HTTP: pages, secrets that are told once, refusals with a reason."""

from typing import Any

import httpx
import pytest

from service.storage.database import Sessions
from service.tenancy import users
from tests.factories import make_experiment

pytestmark = pytest.mark.anyio
API = "/api/v1"
WEBHOOKS = f"{API}/projects/default/webhooks"


@pytest.fixture
async def root(client: httpx.AsyncClient, sessions: Sessions) -> httpx.AsyncClient:
    """A client that calls as `ada`, who is an admin."""
    async with sessions.begin() as session:
        await users.change(session, None, "ada", is_admin=True)
    return client


async def all_pages(client: httpx.AsyncClient, path: str, following: str) -> list[Any]:
    """Everything, two at a time."""
    items, cursor = [], None
    while True:
        query = {"limit": 2, **({following.removeprefix("next_"): cursor} if cursor else {})}
        page = (await client.get(path, params=query)).json()
        assert len(page["items"]) <= 2
        items += page["items"]
        cursor = page[following]
        if cursor is None:
            return items


async def test_users_the_audit_log_and_deliveries_come_in_pages_without_gap_or_repetition(
    root: httpx.AsyncClient, sessions: Sessions
) -> None:
    for name in ("bob", "cyd", "dan", "eve"):
        assert (await root.post(f"{API}/users", json={"name": name})).status_code == 201
    found = await all_pages(root, f"{API}/users", "next_after")
    assert [user["name"] for user in found] == ["ada", "bob", "cyd", "dan", "eve"]

    entries = await all_pages(root, f"{API}/audit", "next_before")
    ids = [entry["id"] for entry in entries]
    assert ids == sorted(ids, reverse=True) and len(ids) == len(set(ids))
    made = [entry["target"] for entry in entries if entry["action"] == "user.create" and entry["actor"] == "ada"]
    assert made == ["eve", "dan", "cyd", "bob"]

    webhook = (await root.post(WEBHOOKS, json={"name": "chat", "url": "https://hooks.example.org/"})).json()
    async with sessions.begin() as session:
        for _ in range(5):
            await make_experiment(session)
    sent = await all_pages(root, f"{WEBHOOKS}/{webhook['id']}/deliveries", "next_before")
    assert len({delivery["id"] for delivery in sent}) == 5
    assert sent[0]["body"]["type"] == "experiment.queued"


async def test_secrets_are_told_once(root: httpx.AsyncClient) -> None:
    token = (await root.post(f"{API}/tokens", json={"name": "ci"})).json()
    webhook = (await root.post(WEBHOOKS, json={"name": "chat", "url": "https://hooks.example.org/"})).json()
    for path in (f"{API}/tokens", WEBHOOKS, f"{WEBHOOKS}/{webhook['id']}", f"{API}/audit"):
        text = (await root.get(path)).text
        assert token["secret"] not in text and webhook["secret"] not in text
        assert "token_sha256" not in text
    rotated = (await root.post(f"{WEBHOOKS}/{webhook['id']}/rotate-secret")).json()
    assert rotated["secret"] not in ("", webhook["secret"])


async def test_a_token_has_the_end_that_was_asked_for(root: httpx.AsyncClient) -> None:
    usual = (await root.post(f"{API}/tokens", json={"name": "a"})).json()
    forever = (await root.post(f"{API}/tokens", json={"name": "b", "expires_in_days": None})).json()
    assert usual["expires_at"] is not None and forever["expires_at"] is None
    refused = await root.post(f"{API}/tokens", json={"name": "c", "expires_in_days": 0})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "expires_in_days")


@pytest.mark.parametrize(
    ("method", "path", "json", "status", "says"),
    [
        ("POST", f"{API}/users", {"name": "a b"}, 422, "name"),
        ("POST", f"{API}/users", {"name": "ada"}, 409, "already"),
        ("POST", f"{API}/projects", {"name": "Team"}, 422, "name"),
        ("POST", f"{API}/projects", {"name": "default"}, 409, "already"),
        ("PATCH", f"{API}/users/ada", {"is_admin": False}, 409, "last admin"),
        ("PATCH", f"{API}/users/nobody", {"disabled": True}, 404, "no user"),
        ("PUT", f"{API}/projects/default/members/nobody", {"role": "member"}, 404, "no user"),
        ("PUT", f"{API}/projects/default/members/ada", {"role": "owner"}, 422, "role"),
        ("DELETE", f"{API}/projects/default/members/nobody", None, 404, "no member"),
        ("DELETE", f"{API}/projects/default/service-accounts/ada", None, 404, "no service account"),
        ("DELETE", f"{API}/tokens/token-none", None, 404, "no token"),
        ("POST", WEBHOOKS, {"name": "a", "url": "http://example.org/"}, 422, "https"),
        ("POST", WEBHOOKS, {"name": "a", "url": "https://127.0.0.1/"}, 422, "public"),
        ("POST", WEBHOOKS, {"name": "a", "url": "https://a.org/", "events": ["x"]}, 422, "unknown event"),
        ("GET", f"{WEBHOOKS}/wh-none", None, 404, "no webhook"),
        ("GET", f"{API}/audit?since=yesterday", None, 422, "since"),
    ],
)
async def test_a_refusal_says_why(
    root: httpx.AsyncClient, method: str, path: str, json: Any, status: int, says: str
) -> None:
    answer = await root.request(method, path, json=json)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text


async def test_an_archived_project_is_left_out_unless_asked_for(root: httpx.AsyncClient) -> None:
    await root.post(f"{API}/projects", json={"name": "old"})
    changed = await root.patch(f"{API}/projects/old", json={"archived": True})
    assert changed.json()["archived_at"] is not None

    async def names(**query: Any) -> list[str]:
        return [item["name"] for item in (await root.get(f"{API}/projects", params=query)).json()["items"]]

    assert (await names(), await names(archived=True)) == (["default"], ["default", "old"])
