"""Logging in to the page: an API token is exchanged for a cookie that scripts cannot read."""

from typing import Annotated, cast
from urllib.parse import parse_qs

from fastapi import APIRouter, Cookie, Depends, Request, Response
from fastapi.responses import RedirectResponse

from api.deps import TOKEN_COOKIE, SessionDep, SettingsDep
from api.web.failed_logins import FailedLogins
from api.web.page_routes import PageRoute, templates
from service import auth
from service.errors import Unauthenticated
from service.settings import ApiSettings

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_COOKIE_LIFE_S = 30 * 24 * 3600
_MAX_FORM_BYTES = 4096


def _failed_logins(request: Request) -> FailedLogins:
    return cast(FailedLogins, request.app.state.failed_logins)


FailedLoginsDep = Annotated[FailedLogins, Depends(_failed_logins)]


@router.get("/login")
async def login_page(
    request: Request,
    session: SessionDep,
    settings: SettingsDep,
    failed: FailedLoginsDep,
    token: str = "",
    next: str = "/",
) -> Response:
    """The form; with `?token=` (the link that a local stack prints) the log-in itself."""
    if token:
        return await _log_in(request, session, settings, failed, token, next)
    return _form(request, settings, local_path(next))


@router.post("/login")
async def login(
    request: Request, session: SessionDep, settings: SettingsDep, failed: FailedLoginsDep, next: str = "/"
) -> Response:
    """Takes the form."""
    token = (await form_of(request)).get("token", "")
    return await _log_in(request, session, settings, failed, token, next)


@router.post("/logout")
async def logout(session: SessionDep, cookie: Annotated[str | None, Cookie(alias=TOKEN_COOKIE)] = None) -> Response:
    """Forgets the cookie. An API token stays valid; what the issuer of log-ins vouched for ends here."""
    if cookie is not None:
        await auth.end_page_session(session, cookie)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(TOKEN_COOKIE)
    return response


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a small form; what is too long is cut, and then not valid."""
    fields = parse_qs((await request.body())[:_MAX_FORM_BYTES].decode(errors="replace"))
    return {name: values[0].strip() for name, values in fields.items()}


def local_path(following: str) -> str:
    """A path of our own to go to next: never another site."""
    is_local = following.startswith("/") and not following.startswith(("//", "/\\"))
    return following if is_local else "/"


def address_of(request: Request) -> str:
    """Where the request came from."""
    return request.client.host if request.client else "unknown"


def set_token_cookie(response: Response, settings: ApiSettings, token: str, life_s: int) -> None:
    """Remembers the token in the browser, for our own pages only."""
    response.set_cookie(
        TOKEN_COOKIE,
        token,
        max_age=life_s,
        httponly=True,
        samesite="strict",
        secure=settings.public_url.startswith("https://"),
    )


async def _log_in(
    request: Request, session: SessionDep, settings: SettingsDep, failed: FailedLogins, token: str, following: str
) -> Response:
    failed.check(address_of(request))
    try:
        await auth.authenticate(session, token)
    except Unauthenticated as error:
        failed.note(address_of(request))
        return _form(request, settings, local_path(following), problem=error.message, status=401)
    response = RedirectResponse(local_path(following), status_code=303)
    set_token_cookie(response, settings, token, _COOKIE_LIFE_S)
    return response


def _form(request: Request, settings: ApiSettings, following: str, *, problem: str = "", status: int = 200) -> Response:
    context = {"problem": problem, "oidc": settings.oidc, "next": following}
    return templates.TemplateResponse(request, "login.html", context, status_code=status)
