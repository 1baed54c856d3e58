"""Who calls: people and programs by API tokens, drivers by the token of their attempt."""

import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256

from sqlalchemy import ColumnElement, Select, bindparam, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.access import Principal
from service.contract.access import ProjectRole, TokenScope, UserKind
from service.errors import NotFound, Unauthenticated
from service.storage.identifiers import new_id
from service.storage.membership_tables import Membership
from service.storage.tables import Attempt, Project, User
from service.storage.token_tables import ApiToken

API_TOKEN_PREFIX = "sr_"
ATTEMPT_TOKEN_PREFIX = "sa_"
_IS_LONG_UNUSED = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < func.now() - timedelta(minutes=5))
"""So exactly the last use of a token is known; a write with every request would be a waste."""


async def issue_token(
    session: AsyncSession,
    user: User,
    name: str,
    expires_at: datetime | None = None,
    *,
    scope: TokenScope = TokenScope.ADMIN,
    project: Project | None = None,
    purpose: str = "api",
) -> tuple[ApiToken, str]:
    """A new API token: its row, and the secret, which cannot be read again; only its SHA-256 is stored."""
    secret = API_TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        id=new_id("token"),
        user_id=user.id,
        name=name,
        token_sha256=_sha256(secret),
        scope=scope.value,
        project_id=project.id if project else None,
        purpose=purpose,
        expires_at=expires_at,
    )
    session.add(token)
    await session.flush()
    return token, secret


async def revoke_token(session: AsyncSession, token_id: str) -> ApiToken:
    """Makes a token useless from now on; a revoked one stays revoked. Raises NotFound."""
    revoked = await session.scalar(
        update(ApiToken)
        .where(ApiToken.id == token_id)
        .values(revoked_at=func.coalesce(ApiToken.revoked_at, func.now()))
        .returning(ApiToken)
        .execution_options(populate_existing=True)
    )
    if revoked is None:
        raise NotFound(f"there is no token {token_id}; list the user's tokens to find its id")
    return revoked


async def end_page_session(session: AsyncSession, token: str) -> None:
    """Revokes a token that a log-in at the page made; any other stays as it is."""
    ended = update(ApiToken).where(ApiToken.token_sha256 == _sha256(token), ApiToken.purpose == "page")
    await session.execute(ended.values(revoked_at=func.coalesce(ApiToken.revoked_at, func.now())))


async def authenticate(session: AsyncSession, token: str, *, request_id: str | None = None) -> Principal:
    """Who shows this API token; raises Unauthenticated if it is unknown, revoked or expired, or its user disabled.

    The search is by digest: how long it takes says nothing about how much of a guess was right. Notes the use, so a
    session with a transaction must be committed.
    """
    found = await session.execute(_valid_token(), {"digest": _sha256(token)})
    row = found.one_or_none()
    if row is None:
        raise Unauthenticated("the API token is unknown, revoked or expired; log in again with a valid one")
    api_token, user, roles, is_long_unused = row
    if is_long_unused:
        used = update(ApiToken).where(ApiToken.id == api_token.id, _IS_LONG_UNUSED).values(last_used_at=func.now())
        await session.execute(used.execution_options(synchronize_session=False))
    return _principal(api_token, user, roles, request_id=request_id)


@cache
def _valid_token() -> Select[ApiToken, User, dict[str, str], bool]:
    """Asked with every request, so it is put together once."""
    return (
        select(ApiToken, User, _roles_of_user(), _IS_LONG_UNUSED)
        .join(User, ApiToken.user_id == User.id)
        .where(
            ApiToken.token_sha256 == bindparam("digest"),
            ApiToken.revoked_at.is_(None),
            or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > func.now()),
            User.disabled_at.is_(None),
        )
    )


def _principal(token: ApiToken, user: User, roles: Mapping[str, str], *, request_id: str | None) -> Principal:
    return Principal(
        id=user.id,
        name=user.name,
        kind=UserKind(user.kind),
        is_admin=user.is_admin,
        token_id=token.id,
        token_name=token.name,
        scope=TokenScope(token.scope),
        bound_project_id=token.project_id,
        roles={project_id: ProjectRole(role) for project_id, role in roles.items()},
        request_id=request_id,
    )


def _roles_of_user() -> ColumnElement[dict[str, str]]:
    """Correlated to an outer `users`: project ids with roles, read in the same round trip."""
    together = func.jsonb_object_agg(Membership.project_id, Membership.role)
    roles = select(func.coalesce(together, func.jsonb_build_object())).where(Membership.user_id == User.id)
    return roles.correlate(User).scalar_subquery()


def attempt_token(secret: bytes, attempt_id: str, number: int) -> str:
    """The token of one attempt, derived (HMAC-SHA256) and never stored: making it again gives the same."""
    digest = hmac.new(secret, f"attempt:{attempt_id}:{number}".encode(), sha256).hexdigest()
    return ATTEMPT_TOKEN_PREFIX + digest


async def attempt_from_token(session: AsyncSession, secret: bytes, attempt_id: str, token: str) -> Attempt:
    """The attempt, if the token is its own; else raises Unauthenticated.

    An unknown attempt and a wrong token give the same answer. An attempt that is over is returned too: whether it may
    still say something is decided by what it says.
    """
    attempt = await session.get(Attempt, attempt_id)
    expected = attempt_token(secret, attempt_id, attempt.number if attempt else 0)
    matches = hmac.compare_digest(expected.encode(), token.encode())
    if attempt is None or not matches:
        raise Unauthenticated("the token is not this attempt's; a driver uses the token file that it was given")
    return attempt


def _sha256(token: str) -> str:
    return sha256(token.encode()).hexdigest()
