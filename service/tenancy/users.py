"""Users: people, and the service accounts of projects. Nobody is deleted; who is disabled has no valid token."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.access import Actor
from service.contract.access import UserKind
from service.errors import InvalidRequest, NotAllowedNow, NotFound
from service.storage.identifiers import new_id
from service.storage.tables import Project, User
from service.storage.token_tables import ApiToken


async def create(session: AsyncSession, by: Actor | None, name: str, *, is_admin: bool = False) -> User:
    """A new person, member of nothing; raises NotAllowedNow if the name is taken."""
    return await _create(session, by, {"name": name, "is_admin": is_admin})


async def create_service_account(session: AsyncSession, by: Actor, home: Project, name: str) -> User:
    """A new service account of a project, not yet a member of it; raises NotAllowedNow if the name is taken."""
    return await _create(session, by, {"name": name, "kind": UserKind.SERVICE.value, "home_project_id": home.id})


async def find_user(session: AsyncSession, name: str) -> User | None:
    """The user of this name."""
    return await session.scalar(select(User).where(User.name == name))


async def get_user(session: AsyncSession, name: str) -> User:
    """The user of this name; raises NotFound."""
    user = await find_user(session, name)
    if user is None:
        raise NotFound(f"there is no user {name!r}; an admin makes one with: sedray admin user create {name}")
    return user


async def list_page(session: AsyncSession, *, after: str, limit: int) -> Sequence[User]:
    """Up to `limit` users whose names follow `after`, by name."""
    return (await session.scalars(select(User).where(User.name > after).order_by(User.name).limit(limit))).all()


async def change(
    session: AsyncSession,
    by: Actor | None,
    name: str,
    *,
    is_admin: bool | None = None,
    disabled: bool | None = None,
    identity: tuple[str, str] | None = None,
) -> User:
    """Makes somebody an admin or no longer, disables or enables them, links them to an identity (issuer, subject).

    Disabling revokes all their tokens. The last admin who is not disabled stays one: NotAllowedNow. Raises NotFound.
    """
    # All admins are locked, always in the same order: two of them cannot take each other's place away at once.
    admins = await session.scalars(select(User).where(User.is_admin).order_by(User.id).with_for_update())
    num_active = sum(admin.disabled_at is None for admin in admins)
    user = await session.scalar(
        select(User).where(User.name == name).with_for_update().execution_options(populate_existing=True)
    )
    if user is None:
        raise NotFound(f"there is no user {name!r}; list the users to find the name")
    if user.kind == UserKind.SERVICE.value and (is_admin or identity):
        raise InvalidRequest(f"{name} is a service account: it cannot be an admin, nor log in at the page")
    before = state_of(user)
    was_active_admin = user.is_admin and user.disabled_at is None
    if is_admin is not None:
        user.is_admin = is_admin
    if identity is not None:
        await _link(session, user, identity)
    if disabled is not None and disabled != (user.disabled_at is not None):
        user.disabled_at = (await session.scalar(select(func.now()))) if disabled else None
    if was_active_admin and num_active == 1 and not (user.is_admin and user.disabled_at is None):
        raise NotAllowedNow(f"{name} is the last admin; make somebody else one first")
    if disabled:
        await _revoke_all(session, user)
    if state_of(user) != before:
        await audit.record(session, by, "change", target_of(user), before=before, after=state_of(user))
    return user


def target_of(user: User) -> audit.Target:
    """The user as the audit log names them; a service account is its project's business."""
    return audit.Target(kind="user", id=user.id, name=user.name, project_id=user.home_project_id)


def state_of(user: User) -> dict[str, Any]:
    """What the audit log keeps of a user."""
    return {
        "name": user.name,
        "kind": user.kind,
        "is_admin": user.is_admin,
        "disabled": user.disabled_at is not None,
        "identity": None if user.oidc_issuer is None else [user.oidc_issuer, user.oidc_subject],
    }


async def _create(session: AsyncSession, by: Actor | None, facts: dict[str, Any]) -> User:
    row = {"id": new_id("user"), **facts}
    user: User | None = await session.scalar(insert(User).values(row).on_conflict_do_nothing().returning(User))
    if user is None:
        raise NotAllowedNow(f"there is a user {facts['name']!r} already; choose another name", name=facts["name"])
    await audit.record(session, by, "create", target_of(user), after=state_of(user))
    return user


async def _link(session: AsyncSession, user: User, identity: tuple[str, str]) -> None:
    issuer, subject = identity
    other = await session.scalar(select(User).where(User.oidc_issuer == issuer, User.oidc_subject == subject))
    if other is not None and other.id != user.id:
        raise NotAllowedNow(f"this identity belongs to the user {other.name!r} already", name=other.name)
    user.oidc_issuer, user.oidc_subject = issuer, subject


async def _revoke_all(session: AsyncSession, user: User) -> None:
    await session.execute(
        update(ApiToken)
        .where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .execution_options(synchronize_session=False)
    )
