"""Tokens of people and of attempts."""

import pytest
from sqlalchemy import select

from service import auth
from service.errors import NotFound, Unauthenticated
from service.storage.database import Sessions
from service.storage.token_tables import ApiToken
from tests.factories import NOW, make_attempt, make_user

pytestmark = pytest.mark.anyio
SECRET = b"s" * 32


async def test_a_token_finds_its_user_until_it_is_revoked(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        user = await make_user(session)
        row, secret = await auth.issue_token(session, user, "laptop")
        assert (await auth.authenticate(session, secret)).id == user.id
        for _ in range(2):
            await auth.revoke_token(session, row.id)
        with pytest.raises(Unauthenticated):
            await auth.authenticate(session, secret)


async def test_the_secret_is_not_stored(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        row, secret = await auth.issue_token(session, await make_user(session), "laptop")
        assert secret.startswith("sr_") and len(secret) > 40
        columns = (await session.execute(select(ApiToken.__table__).where(ApiToken.id == row.id))).one()
        assert secret not in str(columns) and secret[3:] not in str(columns)


async def test_an_expired_token_is_refused(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        _, secret = await auth.issue_token(session, await make_user(session), "old", NOW.replace(year=2020))
        with pytest.raises(Unauthenticated):
            await auth.authenticate(session, secret)


async def test_revoking_an_unknown_token_says_so(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        with pytest.raises(NotFound):
            await auth.revoke_token(session, "token-none")


async def test_an_attempt_token_is_its_attempts_alone(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        good = auth.attempt_token(SECRET, attempt.id, attempt.number)
        assert (await auth.attempt_from_token(session, SECRET, attempt.id, good)).id == attempt.id
        for bad in ("", good[:-1], auth.attempt_token(SECRET, attempt.id, 2), auth.attempt_token(b"x", attempt.id, 1)):
            with pytest.raises(Unauthenticated):
                await auth.attempt_from_token(session, SECRET, attempt.id, bad)


def test_an_attempt_token_is_derived_not_drawn() -> None:
    assert auth.attempt_token(SECRET, "a", 1) == auth.attempt_token(SECRET, "a", 1)
    assert auth.attempt_token(SECRET, "a", 1).startswith("sa_")
