"""`sedray admin user|project|member|service-account`."""

from typing import Annotated

import typer

from api.access_schemas import IssuedToken
from api.cli.admin.tables import members_table, projects_table, users_table
from api.cli.calling import AsJson, answer, client_of, console, print_json, print_secret
from api.cli.forms import Commands
from service.contract.access import ProjectRole, TokenScope

user_app = Commands(help="Users; for admins.")
project_app = Commands(help="Projects.")
member_app = Commands(help="Members of a project and their roles.")
service_account_app = Commands(help="Accounts for CI and other programs.")

Name = Annotated[str, typer.Argument(help="The user's name.", show_default=False)]
Project = Annotated[str, typer.Argument(help="The project's name.", show_default=False)]
Role = Annotated[ProjectRole, typer.Argument(help="The role.", show_default=False)]
FirstToken = Annotated[bool, typer.Option("--token/--no-token", help="Issue a first token and print it, once.")]
Days = Annotated[int | None, typer.Option("--days", min=1, max=3650, help="Days until the token expires.")]


@user_app.command("create")
def create_user(
    context: typer.Context,
    name: Name,
    admin: Annotated[bool, typer.Option("--admin", help="Make them an admin.")] = False,
    token: FirstToken = True,
    days: Days = 90,
    as_json: AsJson = False,
) -> None:
    """Make a user, and print a first token; with --json the token's record, or the user's."""
    with client_of(context) as client:
        user = client.users.create(name, is_admin=admin)
        if not token:
            answer(user, f"{name} was made", as_json)
            return
        issued = client.tokens.issue("first", user=name, scope=TokenScope.ADMIN, expires_in_days=days)
        _hand_over(issued, f"{name} was made; this token is theirs and is not shown again:", as_json)


@user_app.command("ls")
def list_users(context: typer.Context, as_json: AsJson = False) -> None:
    """List all users."""
    with client_of(context) as client:
        page = client.users.list(limit=1000)
        items = list(page.items)
        while page.next_after is not None:
            page = client.users.list(after=page.next_after, limit=1000)
            items += page.items
        whole = page.model_copy(update={"items": items})
        console.print(users_table(items)) if not as_json else print_json(whole)


@user_app.command("disable")
def disable_user(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Disable a user: all their tokens are revoked. What they submitted goes on."""
    with client_of(context) as client:
        answer(client.users.change(name, disabled=True), f"{name} is disabled", as_json)


@user_app.command("enable")
def enable_user(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Enable a user again; they need a new token."""
    with client_of(context) as client:
        next_step = f"issue a token with: sedray token create NAME --user {name}"
        answer(client.users.change(name, disabled=False), f"{name} is enabled; {next_step}", as_json)


@user_app.command("change")
def change_user(
    context: typer.Context,
    name: Name,
    admin: Annotated[bool | None, typer.Option("--admin/--no-admin", help="An admin, or no longer.")] = None,
    identity: Annotated[
        tuple[str, str] | None, typer.Option(help="Issuer and subject of who logs in as this user.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a user an admin or no longer; link them to an identity of the issuer of log-ins."""
    with client_of(context) as client:
        user = client.users.change(name, is_admin=admin, identity=identity)
        console.print(users_table([user])) if not as_json else print_json(user)


@project_app.command("create")
def create_project(
    context: typer.Context,
    name: Project,
    description: Annotated[str, typer.Option(help="What it is about.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a project; for admins."""
    with client_of(context) as client:
        project = client.projects.create(name, description=description)
        answer(project, f"{name} was made; add members with: sedray admin member set {name} USER ROLE", as_json)


@project_app.command("ls")
def list_projects(
    context: typer.Context,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the projects that you see."""
    with client_of(context) as client:
        page = client.projects.list(archived=archived)
        console.print(projects_table(page.items)) if not as_json else print_json(page)


@project_app.command("show")
def show_project(context: typer.Context, name: Project, as_json: AsJson = False) -> None:
    """Show a project and its members."""
    with client_of(context) as client:
        project = client.projects.show(name)
        if as_json:
            print_json(project)
            return
        console.print(projects_table([project]))
        console.print(members_table(client.projects.members(name).items))


@project_app.command("describe")
def describe_project(context: typer.Context, name: Project, description: str, as_json: AsJson = False) -> None:
    """Say what a project is about."""
    with client_of(context) as client:
        answer(client.projects.change(name, description=description), f"{name}: {description}", as_json)


@project_app.command("archive")
def archive_project(
    context: typer.Context,
    name: Project,
    undo: Annotated[bool, typer.Option("--undo", help="Take it up again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Archive a project: no submission, no retry. What is queued in it still runs."""
    with client_of(context) as client:
        project = client.projects.change(name, archived=not undo)
        answer(project, f"{name} is {'taken up again' if undo else 'archived'}", as_json)


@member_app.command("ls")
def list_members(context: typer.Context, project: Project, as_json: AsJson = False) -> None:
    """List the members of a project."""
    with client_of(context) as client:
        page = client.projects.members(project)
        console.print(members_table(page.items)) if not as_json else print_json(page)


@member_app.command("set")
def set_member(context: typer.Context, project: Project, user: Name, role: Role, as_json: AsJson = False) -> None:
    """Add a member, or change their role: viewer, member or maintainer."""
    with client_of(context) as client:
        member = client.projects.set_member(project, user, role)
        answer(member, f"{member.user} is {member.role.value} of {project}", as_json)


@member_app.command("remove")
def remove_member(context: typer.Context, project: Project, user: Name, as_json: AsJson = False) -> None:
    """Take a member's role away; what they submitted stays."""
    with client_of(context) as client:
        member = client.projects.remove_member(project, user)
        answer(member, f"{member.user} was {member.role.value} of {project} and is no longer", as_json)


@service_account_app.command("create")
def create_service_account(
    context: typer.Context,
    project: Project,
    name: Name,
    role: Annotated[ProjectRole, typer.Option(help="Its role in the project.")] = ProjectRole.MEMBER,
    token: FirstToken = True,
    scope: Annotated[TokenScope, typer.Option(help="Scope of the first token.")] = TokenScope.WRITE,
    days: Days = 90,
    as_json: AsJson = False,
) -> None:
    """Make a service account of a project, and print a first token that opens this project only."""
    with client_of(context) as client:
        account = client.projects.create_service_account(project, name, role=role)
        if not token:
            answer(account, f"{name} was made", as_json)
            return
        issued = client.tokens.issue("first", user=name, project=project, scope=scope, expires_in_days=days)
        _hand_over(issued, f"{name} was made; this token is its own and is not shown again:", as_json)


@service_account_app.command("disable")
def disable_service_account(context: typer.Context, project: Project, name: Name, as_json: AsJson = False) -> None:
    """Disable a service account: all its tokens are revoked."""
    with client_of(context) as client:
        answer(client.projects.disable_service_account(project, name), f"{name} is disabled", as_json)


def _hand_over(issued: IssuedToken, what: str, as_json: bool) -> None:
    print_json(issued) if as_json else print_secret(issued.secret, what)
