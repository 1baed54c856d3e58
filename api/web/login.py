"""Logging in to the page: an API token is exchanged for a cookie that scripts cannot read."""

from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api.deps import TOKEN_COOKIE, SessionDep, SettingsDep
from api.web.page_routes import PageRoute, templates
from service import auth
from service.errors import Unauthenticated

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_COOKIE_LIFE_S = 30 * 24 * 3600
_MAX_FORM_BYTES = 4096


@router.get("/login")
async def login_page(
    request: Request, session: SessionDep, settings: SettingsDep, token: str = "", next: str = "/"
) -> Response:
    """The form; with `?token=` (the link that a local stack prints) the log-in itself."""
    if token:
        return await _log_in(request, session, settings, token, next)
    return templates.TemplateResponse(request, "login.html", {})


@router.post("/login")
async def login(request: Request, session: SessionDep, settings: SettingsDep, next: str = "/") -> Response:
    """Takes the form."""
    form = parse_qs((await request.body())[:_MAX_FORM_BYTES].decode(errors="replace"))
    return await _log_in(request, session, settings, form.get("token", [""])[0].strip(), next)


@router.post("/logout")
async def logout() -> Response:
    """Forgets the cookie; the token itself stays valid."""
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(TOKEN_COOKIE)
    return response


async def _log_in(request: Request, session: SessionDep, settings: SettingsDep, token: str, following: str) -> Response:
    try:
        await auth.authenticate(session, token)
    except Unauthenticated as error:
        return templates.TemplateResponse(request, "login.html", {"problem": error.message}, status_code=401)
    # Only paths of our own: never a redirect to another site.
    local = following.startswith("/") and not following.startswith(("//", "/\\"))
    response = RedirectResponse(following if local else "/", status_code=303)
    response.set_cookie(
        TOKEN_COOKIE,
        token,
        max_age=_COOKIE_LIFE_S,
        httponly=True,
        samesite="strict",
        secure=settings.public_url.startswith("https://"),
    )
    return response
