"""Log-in by an issuer: the whole way over real HTTP with real signatures, and everything that must fail."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from joserfc.jwk import OctKey, RSAKey
from pydantic import SecretStr, ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import create_app
from api.web.failed_logins import MAX_FAILURES
from service.contract.access import ProjectRole
from service.settings import ApiSettings, OidcSettings
from service.storage.database import Sessions
from service.storage.token_tables import ApiToken
from service.tenancy import identities, members, projects, users
from service.tenancy.identities import Identity, wanted_roles
from tests.api.conftest import serving
from tests.api.fake_issuer import CLIENT_ID, CLIENT_SECRET, Issuer, running_issuer
from tests.factories import find_project, make_user

pytestmark = pytest.mark.anyio
GROUPS = {"ml": {"default": ProjectRole.MEMBER}, "leads": {"default": ProjectRole.MAINTAINER, "absent": "viewer"}}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that vouches for ada."""
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
async def app(settings: ApiSettings, engine: AsyncEngine, issuer: Issuer) -> FastAPI:
    """The app with this issuer."""
    oidc = OidcSettings(
        issuer=issuer.url, client_id=CLIENT_ID, client_secret=SecretStr(CLIENT_SECRET), group_roles=GROUPS
    )
    return create_app(settings.model_copy(update={"oidc": oidc}), engine=engine)


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who has not logged in."""
    async with serving(app) as client:
        yield client


async def log_in(browser: httpx.AsyncClient, issuer: Issuer, *, following: str = "/account") -> httpx.Response:
    begun = await browser.get("/login/oidc", params={"next": following})
    assert begun.status_code == 303, begun.text
    return await browser.get(issuer.authorize(begun.headers["location"]))


async def test_a_new_person_logs_in_makes_a_token_and_logs_out(
    browser: httpx.AsyncClient, issuer: Issuer, sessions: Sessions
) -> None:
    issuer.claims["groups"] = ["ml"]
    page = await log_in(browser, issuer)
    assert page.status_code == 200 and 'content="0; url=/account"' in page.text
    assert "HttpOnly" in page.headers["set-cookie"] and "SameSite=strict" in page.headers["set-cookie"]

    account = await browser.get("/account")
    assert "ada" in account.text and "member" in account.text
    form = {"name": "laptop", "scope": "write", "days": "7"}
    made = await browser.post("/account/tokens", data=form, headers={"Origin": "http://sedray.test"})
    secret = made.text.split("<pre>")[1].split("</pre>")[0]
    session_cookie = browser.cookies["sedray_token"]
    await browser.post("/logout")

    for token, status in ((secret, 200), (session_cookie, 401)):
        answer = await browser.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status
    async with sessions() as session:
        lives = await session.scalars(select(ApiToken).order_by(ApiToken.id))
        assert [token.purpose for token in lives] == ["page", "api"]


async def test_a_form_of_another_site_makes_no_token(browser: httpx.AsyncClient, issuer: Issuer) -> None:
    await log_in(browser, issuer)
    form = {"name": "evil", "scope": "admin", "days": "7"}
    for headers in ({}, {"Origin": "http://evil.test"}):
        assert (await browser.post("/account/tokens", data=form, headers=headers)).status_code == 403


async def test_the_same_person_is_the_same_user_under_another_name(
    browser: httpx.AsyncClient, issuer: Issuer, sessions: Sessions
) -> None:
    await log_in(browser, issuer)
    issuer.claims["preferred_username"] = "ada.lovelace"
    await log_in(browser, issuer)
    async with sessions() as session:
        assert [user.name for user in await users.list_page(session, after="", limit=10)] == ["ada"]


async def test_nobody_is_taken_over_by_name(browser: httpx.AsyncClient, issuer: Issuer, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await make_user(session, "ada", is_admin=True)
    refused = await log_in(browser, issuer)
    assert refused.status_code == 403 and "not linked to this identity" in refused.text
    async with sessions.begin() as session:
        await users.change(session, None, "ada", identity=(issuer.url, "s-1"))
    assert (await log_in(browser, issuer)).status_code == 200


async def test_a_disabled_user_does_not_get_in(browser: httpx.AsyncClient, issuer: Issuer, sessions: Sessions) -> None:
    await log_in(browser, issuer)
    async with sessions.begin() as session:
        await users.change(session, None, "ada", disabled=True)
    assert (await log_in(browser, issuer)).status_code == 403


_NOW = int(time.time())


@pytest.mark.parametrize(
    "spoilt",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": [CLIENT_ID, "other"]},  # of several audiences, azp must say which asked
        {"azp": "another-client"},
        {"iss": "https://another.example"},
        {"exp": _NOW - 3600},
        {"exp": None},
        {"iat": _NOW + 3600},
        {"sub": None},
    ],
)
async def test_a_token_with_a_wrong_claim_vouches_for_nobody(
    browser: httpx.AsyncClient, issuer: Issuer, spoilt: dict[str, Any]
) -> None:
    issuer.spoil = spoilt
    refused = await log_in(browser, issuer)
    assert (refused.status_code, "sedray_token" in browser.cookies) == (403, False), refused.text


async def test_a_token_signed_by_somebody_else_vouches_for_nobody(browser: httpx.AsyncClient, issuer: Issuer) -> None:
    issuer.signs_with = RSAKey.generate_key(2048, {"kid": "one"})
    assert (await log_in(browser, issuer)).status_code == 403
    issuer.signs_with, issuer.header = OctKey.import_key(CLIENT_SECRET), {"alg": "HS256"}
    assert (await log_in(browser, issuer)).status_code == 403
    assert "sedray_token" not in browser.cookies


async def test_a_new_key_of_the_issuer_is_found(
    browser: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log_in(browser, issuer)
    issuer.key, issuer.header = RSAKey.generate_key(2048, {"kid": "two"}), {"kid": "two"}
    assert (await log_in(browser, issuer)).status_code == 403, "the keys were read a moment ago"
    monkeypatch.setattr("api.oidc.provider._REFETCH_KEYS_S", 0.0)
    assert (await log_in(browser, issuer)).status_code == 200


async def test_an_answer_belongs_to_the_browser_and_the_log_in_that_asked(
    browser: httpx.AsyncClient, issuer: Issuer
) -> None:
    begun = await browser.get("/login/oidc")
    back = issuer.authorize(begun.headers["location"])
    cookie = browser.cookies["sedray_login"]

    async def outcome(url: str, value: str | None) -> int:
        browser.cookies.clear()
        if value:
            browser.cookies.set("sedray_login", value, domain="sedray.test", path="/login")
        return (await browser.get(url)).status_code

    content, mark = cookie.split(".")
    assert await outcome(back, None) == 403
    assert await outcome(back, f"{content}x.{mark}") == 403
    assert await outcome(back.replace("state=", "state=x"), cookie) == 403
    assert await outcome("/login/oidc/callback?error=access_denied&state=" + back.split("state=")[1], cookie) == 403
    assert await outcome(back, cookie) == 200
    assert await outcome(back, cookie) == 403, "a code works once"


async def test_it_never_leads_to_another_site(browser: httpx.AsyncClient, issuer: Issuer) -> None:
    for elsewhere in ("//evil.test", "https://evil.test", "/\\evil.test"):
        assert 'content="0; url=/"' in (await log_in(browser, issuer, following=elsewhere)).text


async def test_an_absent_issuer_is_said_and_tokens_still_work(
    settings: ApiSettings, engine: AsyncEngine, token: str
) -> None:
    oidc = OidcSettings(issuer="http://127.0.0.1:9", client_id=CLIENT_ID)
    app = create_app(settings.model_copy(update={"oidc": oidc}), engine=engine)
    async with serving(app) as client:
        assert "/login/oidc?next=" in (await client.get("/login")).text
        refused = await client.get("/login/oidc")
        assert refused.status_code == 403 and "does not answer" in refused.text
        assert (await client.get("/login", params={"token": token})).status_code == 303


async def test_roles_follow_the_groups_but_never_what_was_set_by_hand(sessions: Sessions) -> None:
    def ada(*groups: str) -> Identity:
        return Identity(issuer="https://i", subject="s", name="ada", groups=frozenset(groups))

    async with sessions.begin() as session:
        other = await projects.create(session, None, "other")
        mapping = {**GROUPS, "others": {"other": ProjectRole.MEMBER}}
        default = await find_project(session)

        async def roles() -> dict[str, str]:
            found = [(project.name, await members.list_members(session, project)) for project in (default, other)]
            return {name: listed[0].role.value for name, listed in found if listed}

        await identities.log_in(session, ada("ml", "leads", "unknown"), mapping)
        assert await roles() == {"default": "maintainer"}
        await identities.log_in(session, ada("ml", "others"), mapping)
        assert await roles() == {"default": "member", "other": "member"}
        await members.set_role(session, None, other, "ada", ProjectRole.VIEWER)
        await identities.log_in(session, ada("others"), mapping)
        assert await roles() == {"other": "viewer"}
        await identities.log_in(session, ada(), mapping)
        assert await roles() == {"other": "viewer"}


def test_the_highest_role_of_all_groups_counts() -> None:
    assert wanted_roles(frozenset({"ml", "leads"}), GROUPS)["default"] is ProjectRole.MAINTAINER  # type: ignore[arg-type]


def test_an_issuer_needs_a_client_and_https() -> None:
    for facts in ({"issuer": "https://i.example"}, {"issuer": "http://i.example", "client_id": "c"}):
        with pytest.raises(ValidationError):
            OidcSettings.model_validate(facts)


async def test_after_many_failures_an_address_has_to_wait(anonymous: httpx.AsyncClient, token: str) -> None:
    for _ in range(MAX_FAILURES):
        assert (await anonymous.post("/login", content="token=sr_wrong")).status_code == 401
    refused = await anonymous.get("/login", params={"token": token})
    assert (refused.status_code, "wait a minute" in refused.text) == (429, True)
    answer = await anonymous.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
