"""API tokens, and whose token it is that calls."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.access_schemas import IssuedToken, Me, NewToken, TokenOut, TokenPage, TokenRotation
from api.access_shapes import to_issued, to_token
from api.deps import CurrentUser, SessionDep
from api.problems import problem_responses
from service.tenancy import projects, tokens
from service.tenancy.tokens import TokenRequest

router = APIRouter(tags=["tokens"])
TokenId = Annotated[str, Path(description="A token's id.", max_length=100)]


@router.get("/me", summary="Whose token this is, and what it opens", responses=problem_responses(401))
async def show_me(user: CurrentUser, session: SessionDep) -> Me:
    """The caller's name, scope and roles."""
    views = await projects.list_visible(session, user, archived=True)
    return Me(
        user=user.name,
        kind=user.kind,
        is_admin=user.is_admin,
        token=user.token_name,
        scope=user.scope,
        projects={view.project.name: view.role for view in views},
    )


@router.get("/tokens", summary="List tokens", responses=problem_responses(401, 404, 422))
async def list_tokens(
    user: CurrentUser,
    session: SessionDep,
    of: Annotated[str | None, Query(alias="user", max_length=100, description="Whose; left out: your own.")] = None,
    ended: Annotated[bool, Query(description="Revoked and expired ones too.")] = False,
) -> TokenPage:
    """Your own, those of a service account of a project that you maintain, or as an admin anybody's."""
    views = await tokens.list_tokens(session, user, of, ended=ended)
    return TokenPage(items=[to_token(view) for view in views])


@router.post(
    "/tokens",
    summary="Issue a token",
    status_code=201,
    responses=problem_responses(401, 403, 404, 409, 413, 422),
)
async def issue_token(user: CurrentUser, session: SessionDep, new: NewToken) -> IssuedToken:
    """Needs a token of scope `admin`. The secret is in this answer and nowhere else: it cannot be shown again."""
    request = TokenRequest(
        name=new.name,
        scope=new.scope,
        lifetime=timedelta(days=new.expires_in_days) if new.expires_in_days else None,
        user=new.user,
        project=new.project,
    )
    return to_issued(*await tokens.issue(session, user, request))


@router.delete("/tokens/{token_id}", summary="Revoke a token", responses=problem_responses(401, 403, 404, 422))
async def revoke_token(user: CurrentUser, session: SessionDep, token_id: TokenId) -> TokenOut:
    """Needs scope `admin`, but for the token itself that calls. A revoked one stays revoked."""
    return to_token(await tokens.revoke(session, user, token_id))


@router.post(
    "/tokens/{token_id}/rotate",
    summary="Replace a token by a successor",
    status_code=201,
    responses=problem_responses(401, 403, 404, 409, 413, 422),
)
async def rotate_token(
    user: CurrentUser, session: SessionDep, token_id: TokenId, rotation: TokenRotation
) -> IssuedToken:
    """Same name, scope, project and length of life; the secret is told this once. Needs scope `admin`."""
    overlap = timedelta(seconds=rotation.overlap_s)
    return to_issued(*await tokens.rotate(session, user, token_id, overlap=overlap))
