"""One's own page: roles, and tokens to make and to revoke. It is where somebody who logs in here gets a first token."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from api.access_schemas import IssuedToken, NewToken
from api.access_shapes import to_issued
from api.deps import CurrentUser, SessionDep
from api.routers.tokens import list_tokens, show_me
from api.web.login import form_of
from api.web.page_routes import PageRoute, templates
from service.access import Principal
from service.contract.access import TokenScope
from service.errors import InvalidRequest
from service.tenancy import tokens
from service.tenancy.tokens import TokenRequest

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/account")
async def account_page(request: Request, user: CurrentUser, session: SessionDep) -> Response:
    """Who you are here, your roles, your tokens."""
    return await _page(request, user, session, None)


@router.post("/account/tokens")
async def issue_own_token(request: Request, user: CurrentUser, session: SessionDep) -> Response:
    """Shows the secret of a new token, this once."""
    form = await form_of(request)
    try:
        new = NewToken.model_validate(
            {"name": form.get("name", ""), "scope": form.get("scope"), "expires_in_days": form.get("days")}
        )
    except ValidationError as error:
        raise InvalidRequest("give the token a name, a scope and a number of days from 1 to 3650") from error
    lifetime = timedelta(days=new.expires_in_days) if new.expires_in_days else None
    wanted = TokenRequest(name=new.name, scope=new.scope, lifetime=lifetime)
    issued = to_issued(*await tokens.issue(session, user, wanted))
    return await _page(request, user, session, issued)


@router.post("/account/tokens/{token_id}/revoke")
async def revoke_own_token(
    user: CurrentUser, session: SessionDep, token_id: Annotated[str, Path(max_length=100)]
) -> Response:
    """Makes it useless from now on."""
    await tokens.revoke(session, user, token_id)
    return RedirectResponse("/account", status_code=303)


async def _page(request: Request, user: Principal, session: SessionDep, issued: IssuedToken | None) -> Response:
    context = {
        "user": user.name,
        "me": await show_me(user, session),
        "tokens": (await list_tokens(user, session, of=None, ended=False)).items,
        "issued": issued,
        "scopes": list(TokenScope),
    }
    return templates.TemplateResponse(request, "account.html", context)
