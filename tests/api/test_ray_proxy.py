"""Ray's dashboard through the page, for admins, to look at."""

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import create_app
from api.deps import TOKEN_COOKIE
from api.web.ray_proxy import RayProxy, may_pass
from service import auth
from service.settings import ApiSettings
from service.storage.database import Sessions
from tests.api.conftest import plan_anything
from tests.factories import make_user

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(settings: ApiSettings, engine: AsyncEngine, tmp_path: Path) -> FastAPI:
    """One that shows a cluster."""
    proxied = {"ray_proxy_url": "http://ray.test:8265", "ray_proxy_token_file": tmp_path / "ray_token"}
    return create_app(settings.model_copy(update=proxied), engine=engine, plan=plan_anything)


@pytest.fixture
def asked(app: FastAPI, tmp_path: Path) -> list[httpx.Request]:
    """What arrives at a dashboard that answers everything."""
    (tmp_path / "ray_token").write_text("cluster-token\n")
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        headers = {"Set-Cookie": "theirs=1", "Content-Type": "text/css", "Server": "ray"}
        return httpx.Response(200, text="shown", headers=headers)

    app.state.ray_proxy = RayProxy("http://ray.test:8265", tmp_path / "ray_token", httpx.MockTransport(answer))
    return requests


async def log_in(client: httpx.AsyncClient, sessions: Sessions, *, is_admin: bool) -> None:
    async with sessions.begin() as session:
        user = await make_user(session, "root" if is_admin else "bo", is_admin=is_admin)
        client.cookies.set(TOKEN_COOKIE, (await auth.issue_token(session, user, "tests"))[1])


async def test_an_admin_looks_and_no_credentials_cross(
    anonymous: httpx.AsyncClient, sessions: Sessions, asked: list[httpx.Request]
) -> None:
    await log_in(anonymous, sessions, is_admin=True)

    answer = await anonymous.get("/ray/static/css/main.css?v=1")

    assert (answer.text, answer.headers["content-type"]) == ("shown", "text/css")
    assert "set-cookie" not in answer.headers and "default-src 'self'" in answer.headers["content-security-policy"]
    [request] = asked
    assert str(request.url) == "http://ray.test:8265/static/css/main.css?v=1"
    assert request.headers["authorization"] == "Bearer cluster-token" and "cookie" not in request.headers


async def test_nothing_but_looking_reaches_ray(
    anonymous: httpx.AsyncClient, sessions: Sessions, asked: list[httpx.Request]
) -> None:
    await log_in(anonymous, sessions, is_admin=True)
    assert (await anonymous.post("/ray/api/jobs/", json={"entrypoint": "id"})).status_code == 405
    for path in ("test/dump", "worker/cpu_profile", "static/%2e%2e/test/dump", "api/v0/delay/9", "static/%252e%252e/a"):
        assert (await anonymous.get(f"/ray/{path}")).status_code == 404, path
    await log_in(anonymous, sessions, is_admin=False)
    assert (await anonymous.get("/ray/")).status_code == 403
    assert asked == []


def test_paths_are_views_only_as_they_are_written() -> None:
    assert may_pass("") and may_pass("api/v0/nodes") and may_pass("nodes/abc")
    assert not any(map(may_pass, ("static/../test/dump", "static//x", "api/v0/delay/1", "nodes/\\x", "nodes/é")))


async def test_a_missing_token_is_a_page_that_says_so(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    await log_in(anonymous, sessions, is_admin=True)

    answer = await anonymous.get("/ray/")

    assert answer.status_code == 502 and "no answer from Ray" in answer.text


def test_an_address_without_a_token_is_refused(settings: ApiSettings) -> None:
    with pytest.raises(ValidationError, match="or neither"):
        ApiSettings(**{**settings.model_dump(), "ray_proxy_url": "http://ray.test"})
