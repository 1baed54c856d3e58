"""Who may do what: people by API tokens, drivers by the token of their attempt."""

import hmac
import secrets
from datetime import datetime
from hashlib import sha256

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import NotAllowedNow, NotFound, Unauthenticated
from service.storage.identifiers import new_id
from service.storage.tables import ApiToken, Attempt, Project, User

API_TOKEN_PREFIX = "sr_"
ATTEMPT_TOKEN_PREFIX = "sa_"


async def create_user(session: AsyncSession, name: str) -> User:
    """A new user; raises NotAllowedNow if the name is taken."""
    statement = insert(User).values(id=new_id("user"), name=name).on_conflict_do_nothing().returning(User)
    user = await session.scalar(statement)
    if user is None:
        raise NotAllowedNow(f"there is a user {name!r} already; choose another name", name=name)
    return user


async def find_user(session: AsyncSession, name: str) -> User | None:
    """The user of this name."""
    return await session.scalar(select(User).where(User.name == name))


async def ensure_project(session: AsyncSession, name: str) -> Project:
    """The project of this name, made if it did not exist."""
    await session.execute(insert(Project).values(id=new_id("project"), name=name).on_conflict_do_nothing())
    project = await session.scalar(select(Project).where(Project.name == name))
    assert project is not None, "inserted or found"
    return project


async def issue_token(
    session: AsyncSession, user: User, name: str, expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """A new API token: its row, and the secret, which cannot be read again; only its SHA-256 is stored."""
    secret = API_TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        id=new_id("token"), user_id=user.id, name=name, token_sha256=_sha256(secret), expires_at=expires_at
    )
    session.add(token)
    await session.flush()
    return token, secret


async def revoke_token(session: AsyncSession, token_id: str) -> None:
    """Makes a token useless from now on; a revoked one stays revoked. Raises NotFound."""
    revoked = await session.scalar(
        update(ApiToken)
        .where(ApiToken.id == token_id)
        .values(revoked_at=func.coalesce(ApiToken.revoked_at, func.now()))
        .returning(ApiToken.id)
    )
    if revoked is None:
        raise NotFound(f"there is no token {token_id}; list the user's tokens to find its id")


async def authenticate(session: AsyncSession, token: str) -> User:
    """The user whose API token this is; raises Unauthenticated if it is unknown, revoked or expired.

    The search is by digest: how long it takes says nothing about how much of a guess was right.
    """
    valid = or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > func.now())
    user = await session.scalar(
        select(User)
        .join(ApiToken, ApiToken.user_id == User.id)
        .where(ApiToken.token_sha256 == _sha256(token), ApiToken.revoked_at.is_(None), valid)
    )
    if user is None:
        raise Unauthenticated("the API token is unknown, revoked or expired; log in again with a valid one")
    return user


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
