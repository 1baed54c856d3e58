"""Logging in to the page by the issuer of log-ins, where one is set."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, cast

from fastapi import APIRouter, Cookie, Depends, Request, Response
from fastapi.responses import RedirectResponse

from api.deps import SecretDep, SessionsDep, SettingsDep
from api.oidc import login_state
from api.oidc.provider import OidcProvider
from api.web.login import FailedLoginsDep, address_of, local_path, set_token_cookie
from api.web.page_routes import PageRoute, templates
from service import auth
from service.errors import LoginFailed, NotFound
from service.storage.database import Sessions
from service.tenancy import identities
from service.tenancy.identities import GroupRoles, Identity

CALLBACK = "/login/oidc/callback"
router = APIRouter(route_class=PageRoute, include_in_schema=False)


def _provider(request: Request) -> OidcProvider:
    provider = cast(OidcProvider | None, request.app.state.oidc)
    if provider is None:
        raise NotFound("this service has no issuer of log-ins; log in with a token")
    return provider


ProviderDep = Annotated[OidcProvider, Depends(_provider)]


@router.get("/login/oidc")
async def begin_login(provider: ProviderDep, settings: SettingsDep, secret: SecretDep, next: str = "/") -> Response:
    """Sends the browser to the issuer."""
    login = login_state.begin(secret, local_path(next))
    response = RedirectResponse(await provider.authorization_url(login), status_code=303)
    response.set_cookie(
        login_state.COOKIE,
        login.cookie(secret),
        max_age=login_state.LIFE_S,
        path="/login",
        httponly=True,
        samesite="lax",  # the issuer sends the browser back from another site
        secure=settings.public_url.startswith("https://"),
    )
    return response


@router.get(CALLBACK)
async def finish_login(
    request: Request,
    provider: ProviderDep,
    settings: SettingsDep,
    secret: SecretDep,
    sessions: SessionsDep,
    failed: FailedLoginsDep,
    code: str = "",
    state: str = "",
    error: str = "",
    cookie: Annotated[str | None, Cookie(alias=login_state.COOKIE)] = None,
) -> Response:
    """Takes the issuer's answer."""
    failed.check(address_of(request))
    try:
        login = login_state.resume(secret, cookie, state)
        if error or not code:
            raise LoginFailed(f"the issuer of log-ins refuses: {error[:200] or 'it sent no code'}")
        identity = await provider.identify(code, login)
        lasts = timedelta(hours=settings.oidc.session_hours)
        token = await _open_session(sessions, identity, settings.oidc.group_roles, lasts)
    except LoginFailed:
        failed.note(address_of(request))
        raise
    # A page and no redirect: the browser would not send the new cookie along on the way from another site.
    response = templates.TemplateResponse(request, "logged_in.html", {"next": login.following})
    set_token_cookie(response, settings, token, int(lasts.total_seconds()))
    response.delete_cookie(login_state.COOKIE, path="/login")
    return response


async def _open_session(sessions: Sessions, identity: Identity, group_roles: GroupRoles, lasts: timedelta) -> str:
    async with sessions.begin() as session:
        user = await identities.log_in(session, identity, group_roles)
        expires_at = datetime.now(UTC) + lasts
        return (await auth.issue_token(session, user, "page", expires_at, purpose="page"))[1]
