"""Projects, their members and their service accounts."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.access import Admin, ManagedProject, ReadableProject
from api.access_schemas import (
    MemberOut,
    MemberPage,
    MemberRole,
    NewProject,
    NewServiceAccount,
    ProjectChange,
    ProjectOut,
    ProjectPage,
    UserOut,
)
from api.access_shapes import read_user, to_member, to_project
from api.deps import CurrentUser, SessionDep
from api.problems import problem_responses
from service.tenancy import members, projects

router = APIRouter(prefix="/projects", tags=["projects"])
UserName = Annotated[str, Path(description="A user's name.", max_length=100)]


@router.get("", summary="List the projects that you see", responses=problem_responses(401, 422))
async def list_projects(
    user: CurrentUser,
    session: SessionDep,
    archived: Annotated[bool, Query(description="Archived ones too.")] = False,
) -> ProjectPage:
    """With your role in each; an admin sees all."""
    views = await projects.list_visible(session, user, archived=archived)
    return ProjectPage(items=[to_project(view) for view in views])


@router.post("", summary="Make a project", status_code=201, responses=problem_responses(401, 403, 409, 413, 422))
async def create_project(admin: Admin, session: SessionDep, new: NewProject) -> ProjectOut:
    """It has no members yet."""
    project = await projects.create(session, admin, new.name, new.description)
    return to_project(projects.view_of(project, admin))


@router.get("/{project}", summary="Show a project", responses=problem_responses(401, 404, 422))
async def show_project(project: ReadableProject, user: CurrentUser) -> ProjectOut:
    """With your role in it."""
    return to_project(projects.view_of(project, user))


@router.patch(
    "/{project}",
    summary="Describe, archive or take up a project",
    responses=problem_responses(401, 403, 404, 413, 422),
)
async def change_project(
    project: ManagedProject, user: CurrentUser, session: SessionDep, change: ProjectChange
) -> ProjectOut:
    """Archiving is undone by `archived: false`."""
    changed = await projects.change(session, user, project, description=change.description, archived=change.archived)
    return to_project(projects.view_of(changed, user))


@router.get("/{project}/members", summary="List the members", responses=problem_responses(401, 404, 422))
async def list_members(project: ReadableProject, session: SessionDep) -> MemberPage:
    """By name. Admins may do everything everywhere without being members."""
    return MemberPage(items=[to_member(member) for member in await members.list_members(session, project)])


@router.put(
    "/{project}/members/{name}",
    summary="Add a member, or change a role",
    responses=problem_responses(401, 403, 404, 409, 413, 422),
)
async def set_member(
    project: ManagedProject, user: CurrentUser, session: SessionDep, name: UserName, wanted: MemberRole
) -> MemberOut:
    """A role that is set here is no longer changed by the groups of the issuer of log-ins."""
    return to_member(await members.set_role(session, user, project, name, wanted.role))


@router.delete("/{project}/members/{name}", summary="Remove a member", responses=problem_responses(401, 403, 404, 422))
async def remove_member(project: ManagedProject, user: CurrentUser, session: SessionDep, name: UserName) -> MemberOut:
    """What they have submitted stays. Answers what the membership was."""
    return to_member(await members.remove(session, user, project, name))


@router.post(
    "/{project}/service-accounts",
    summary="Make a service account",
    status_code=201,
    responses=problem_responses(401, 403, 404, 409, 413, 422),
)
async def create_service_account(
    project: ManagedProject, user: CurrentUser, session: SessionDep, new: NewServiceAccount
) -> MemberOut:
    """For CI and other programs; issue its tokens with `POST /tokens`, naming it as `user`."""
    return to_member(await members.add_service_account(session, user, project, new.name, new.role))


@router.delete(
    "/{project}/service-accounts/{name}",
    summary="Disable a service account",
    responses=problem_responses(401, 403, 404, 422),
)
async def disable_service_account(
    project: ManagedProject, user: CurrentUser, session: SessionDep, name: UserName
) -> UserOut:
    """All its tokens are revoked. Its name stays taken, since experiments may be its own."""
    return await read_user(session, await members.disable_service_account(session, user, project, name))
