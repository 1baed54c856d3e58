"""Users, as admins manage them."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import Admin, AdminReader
from api.access_schemas import NewUser, UserChange, UserOut, UserPage
from api.access_shapes import read_user
from api.deps import SessionDep
from api.problems import problem_responses
from api.routers.projects import UserName
from service.tenancy import users

router = APIRouter(prefix="/users", tags=["users"])


@router.get("", summary="List the users", responses=problem_responses(401, 403, 422))
async def list_users(
    _: AdminReader,
    session: SessionDep,
    after: Annotated[str, Query(max_length=100, description="`next_after` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> UserPage:
    """People and service accounts, by name. `next_after` is null on the last page."""
    found = await users.list_page(session, after=after, limit=limit + 1)
    items = [await read_user(session, user) for user in found[:limit]]
    return UserPage(items=items, next_after=items[-1].name if len(found) > limit else None)


@router.post("", summary="Make a user", status_code=201, responses=problem_responses(401, 403, 409, 413, 422))
async def create_user(admin: Admin, session: SessionDep, new: NewUser) -> UserOut:
    """A person, member of nothing; issue a first token with `POST /tokens`, naming them as `user`."""
    return await read_user(session, await users.create(session, admin, new.name, is_admin=new.is_admin))


@router.patch(
    "/{name}",
    summary="Make an admin, disable, enable, link to an identity",
    responses=problem_responses(401, 403, 404, 409, 413, 422),
)
async def change_user(admin: Admin, session: SessionDep, name: UserName, change: UserChange) -> UserOut:
    """The last admin stays one (409)."""
    identity = (change.identity.issuer, change.identity.subject) if change.identity else None
    user = await users.change(
        session, admin, name, is_admin=change.is_admin, disabled=change.disabled, identity=identity
    )
    return await read_user(session, user)
