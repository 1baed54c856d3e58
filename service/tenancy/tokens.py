"""API tokens: who may issue, see, revoke and rotate which.

Everybody their own; the maintainers of a project those of its service accounts; admins all. A token that is bound to
one project manages only such as are bound to the same: it never becomes one that opens more.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit, auth
from service.access import Action, Principal, require_project
from service.contract.access import ProjectRole, TokenScope, UserKind
from service.errors import Forbidden, InvalidRequest, NotAllowedNow, NotFound
from service.storage.membership_tables import Membership
from service.storage.tables import Project, User
from service.storage.token_tables import ApiToken
from service.tenancy import users


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """A token without its secret."""

    token: ApiToken
    user: User
    project: Project | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """What a new token shall be."""

    name: str
    scope: TokenScope
    lifetime: timedelta | None
    """None: until it is revoked."""
    user: str | None = None
    """Left out: the caller."""
    project: str | None = None
    """The only project that it opens; left out: all of its user's."""


async def issue(session: AsyncSession, by: Principal, request: TokenRequest) -> tuple[TokenView, str]:
    """A new token and its secret, which is told this once.

    Raises NotFound, Forbidden, InvalidRequest; NotAllowedNow for a disabled user.
    """
    by.require_scope(TokenScope.ADMIN)
    user = await _managed_user(session, by, request.user)
    if user.disabled_at is not None:
        raise NotAllowedNow(f"{user.name} is disabled; no token of theirs is accepted")
    project = None
    if request.project is not None:
        project = await require_project(session, by, request.project, Action.READ)
        await _require_member(session, user, project)
    if by.bound_project_id is not None and (project is None or project.id != by.bound_project_id):
        raise Forbidden(f"token {by.token_name!r} is bound to one project: it issues tokens that are bound to it only")
    now = await _now(session)
    expires_at = now + request.lifetime if request.lifetime else None
    token, secret = await auth.issue_token(
        session, user, request.name, expires_at, scope=request.scope, project=project
    )
    view = TokenView(token=token, user=user, project=project)
    await audit.record(session, by, "issue", _target(view), after=_state(view))
    return view, secret


async def list_tokens(session: AsyncSession, by: Principal, user: str | None, *, ended: bool) -> list[TokenView]:
    """The tokens of a user (None: the caller's own), newest first; revoked and expired ones only if asked for."""
    owner = await _managed_user(session, by, user)
    statement = _select().where(ApiToken.user_id == owner.id).order_by(ApiToken.id.desc())
    if by.bound_project_id is not None:
        statement = statement.where(ApiToken.project_id == by.bound_project_id)
    if not ended:
        alive = or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > func.now())
        statement = statement.where(ApiToken.revoked_at.is_(None), alive)
    return [
        TokenView(token=token, user=owner, project=project)
        for token, owner, project in await session.execute(statement)
    ]


async def revoke(session: AsyncSession, by: Principal, token_id: str) -> TokenView:
    """Makes a token useless from now on; a token of any scope may do that to itself. Raises NotFound, Forbidden."""
    view = await _managed_token(session, by, token_id)
    if token_id != by.token_id:
        by.require_scope(TokenScope.ADMIN)
    if view.token.revoked_at is not None:
        return view
    before = _state(view)
    token = await auth.revoke_token(session, token_id)
    await audit.record(session, by, "revoke", _target(view), before=before)
    return TokenView(token=token, user=view.user, project=view.project)


async def rotate(session: AsyncSession, by: Principal, token_id: str, *, overlap: timedelta) -> tuple[TokenView, str]:
    """A successor with the same name, scope, binding and length of life, and its secret.

    The old one is accepted for another `overlap`, so that programs can be told the new secret. Raises NotFound,
    Forbidden; NotAllowedNow for a token that is revoked or expired.
    """
    view = await _managed_token(session, by, token_id)
    by.require_scope(TokenScope.ADMIN)
    old, now = view.token, await _now(session)
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise NotAllowedNow(f"token {token_id} is no longer valid; issue a new one")
    expires_at = now + (old.expires_at - old.created_at) if old.expires_at else None
    scope = TokenScope(old.scope)
    token, secret = await auth.issue_token(session, view.user, old.name, expires_at, scope=scope, project=view.project)
    await session.execute(
        update(ApiToken)
        .where(ApiToken.id == token_id)
        .values(expires_at=func.least(func.coalesce(ApiToken.expires_at, now + overlap), now + overlap))
        .execution_options(synchronize_session=False)
    )
    successor = TokenView(token=token, user=view.user, project=view.project)
    await audit.record(
        session, by, "rotate", _target(view), before=_state(view), after=_state(successor) | {"successor": token.id}
    )
    return successor, secret


async def _managed_user(session: AsyncSession, by: Principal, name: str | None) -> User:
    """The user whose tokens the caller wants to manage; in doubt nobody of that name exists."""
    user = await session.get(User, by.id) if name is None else await users.find_user(session, name)
    if user is None or not _manages(by, user):
        raise NotFound(
            f"there is no user {name!r} whose tokens you manage; maintainers manage service accounts' tokens"
        )
    return user


async def _managed_token(session: AsyncSession, by: Principal, token_id: str) -> TokenView:
    found = (await session.execute(_select().where(ApiToken.id == token_id).with_for_update(of=ApiToken))).one_or_none()
    is_open = found is not None and by.bound_project_id in (None, found[0].project_id)
    if found is None or not is_open or not _manages(by, found[1]):
        raise NotFound(f"there is no token {token_id!r} that you manage; list your tokens to find its id")
    token, user, project = found
    return TokenView(token=token, user=user, project=project)


def _manages(by: Principal, user: User) -> bool:
    if user.id == by.id or by.governs:
        return True
    if user.kind != UserKind.SERVICE.value or user.home_project_id is None:
        return False
    return by.role_in(user.home_project_id) is ProjectRole.MAINTAINER


async def _require_member(session: AsyncSession, user: User, project: Project) -> None:
    is_member = select(Membership.role).where(Membership.user_id == user.id, Membership.project_id == project.id)
    if not user.is_admin and await session.scalar(is_member) is None:
        problem = f"{user.name} is no member of project {project.name!r}"
        raise InvalidRequest(
            f"{problem}; the token would open nothing", errors=[{"field": "project", "problem": problem}]
        )


def _select() -> Select[ApiToken, User, Project]:
    return (
        select(ApiToken, User, Project)
        .join(User, User.id == ApiToken.user_id)
        .outerjoin(Project, Project.id == ApiToken.project_id)
        .execution_options(populate_existing=True)
    )


async def _now(session: AsyncSession) -> datetime:
    now: datetime = (await session.execute(select(func.now()))).scalar_one()
    return now


def _target(view: TokenView) -> audit.Target:
    project_id = view.user.home_project_id or view.token.project_id
    return audit.Target(kind="token", id=view.token.id, name=view.token.name, project_id=project_id)


def _state(view: TokenView) -> dict[str, Any]:
    return {
        "user": view.user.name,
        "name": view.token.name,
        "scope": view.token.scope,
        "project": view.project.name if view.project else None,
        "expires_at": view.token.expires_at.isoformat() if view.token.expires_at else None,
    }
