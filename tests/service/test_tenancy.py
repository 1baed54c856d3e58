"""Projects, users, members and tokens: who exists, and who may manage whom."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service import access, audit, auth, experiments
from service.access import Principal
from service.audit import AuditFilter
from service.contract.access import ProjectRole, TokenScope
from service.errors import Forbidden, InvalidRequest, InvalidSpec, NotAllowedNow, NotFound, Unauthenticated
from service.storage.database import Sessions
from service.tenancy import first_admin, members, projects, tokens, users
from service.tenancy.tokens import TokenRequest
from tests.factories import find_project, make_experiment, make_user

pytestmark = pytest.mark.anyio


async def principal_of(
    session: AsyncSession, name: str, *, scope: TokenScope = TokenScope.ADMIN, bound_to: str | None = None
) -> Principal:
    """The user of this name, as a token of theirs shows them."""
    project = await find_project(session, bound_to) if bound_to else None
    user = await users.get_user(session, name)
    _, secret = await auth.issue_token(session, user, "t", scope=scope, project=project)
    return await auth.authenticate(session, secret)


def a_request(**changes: object) -> TokenRequest:
    facts = {"name": "ci", "scope": TokenScope.WRITE, "lifetime": timedelta(days=1)}
    return TokenRequest(**{**facts, **changes})  # type: ignore[arg-type]


async def test_a_name_belongs_to_one_user_and_to_one_project(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await users.create(session, None, "ada")
        with pytest.raises(NotAllowedNow):
            await users.create(session, None, "ada")
        with pytest.raises(NotAllowedNow):
            await projects.create(session, None, "default")


async def test_a_role_is_changed_and_taken_away(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        ada, default = await make_user(session, role=ProjectRole.VIEWER), await find_project(session)
        changed = await members.set_role(session, None, default, "ada", ProjectRole.MEMBER)
        assert (changed.role, changed.user.id) == (ProjectRole.MEMBER, ada.id)
        assert (await principal_of(session, "ada")).role_in(default.id) is ProjectRole.MEMBER
        await members.remove(session, None, default, "ada")
        assert (await principal_of(session, "ada")).role_in(default.id) is None
        with pytest.raises(NotFound):
            await members.remove(session, None, default, "ada")


async def test_what_a_role_may_see_follows_the_token_too(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        team = await projects.create(session, None, "team")
        await make_user(session)
        await members.set_role(session, None, team, "ada", ProjectRole.MEMBER)
        bound = await principal_of(session, "ada", bound_to="team")
        assert bound.visible.project_ids == {team.id}
        assert bound.role_in("project-default") is None
        stranger = await make_user(session, "eve", role=None)
        assert (await principal_of(session, stranger.name)).visible.project_ids == frozenset()


async def test_the_last_admin_stays_one_whatever_two_of_them_do_at_once(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        for name in ("ada", "bob"):
            await users.create(session, None, name, is_admin=True)

    async def demote(name: str) -> None:
        async with sessions.begin() as session:
            await users.change(session, None, name, is_admin=False)

    outcomes = await asyncio.gather(demote("ada"), demote("bob"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(NotAllowedNow) == 1


async def test_whoever_is_disabled_has_no_valid_token_ever_again(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        ada = await make_user(session)
        _, secret = await auth.issue_token(session, ada, "t")
        await users.change(session, None, "ada", disabled=True)
        with pytest.raises(Unauthenticated):
            await auth.authenticate(session, secret)
        await make_user(session, "root", role=None, is_admin=True)
        root = await principal_of(session, "root")
        assert [view.token.name for view in await tokens.list_tokens(session, root, "ada", ended=True)] == ["t"]
        with pytest.raises(NotAllowedNow):
            await tokens.issue(session, root, a_request(user="ada"))
        await users.change(session, None, "ada", disabled=False)
        with pytest.raises(Unauthenticated):
            await auth.authenticate(session, secret)


async def test_a_service_account_is_no_admin(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        ada = await make_user(session)
        await users.create_service_account(session, ada, await find_project(session), "ci")
        with pytest.raises(InvalidRequest):
            await users.change(session, None, "ci", is_admin=True)


async def test_maintainers_issue_tokens_for_their_projects_service_accounts_only(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        ada, default = await make_user(session), await find_project(session)
        await make_user(session, "bob")
        await members.add_service_account(session, ada, default, "ci", ProjectRole.MEMBER)
        maintainer = await principal_of(session, "ada")
        view, secret = await tokens.issue(session, maintainer, a_request(user="ci", project="default"))
        assert view.user.name == "ci"
        caller = await auth.authenticate(session, secret)
        assert (caller.name, caller.scope, caller.role_in(default.id)) == ("ci", TokenScope.WRITE, ProjectRole.MEMBER)
        with pytest.raises(NotFound):
            await tokens.issue(session, maintainer, a_request(user="bob"))
        await make_user(session, "member", role=ProjectRole.MEMBER)
        with pytest.raises(NotFound):
            await tokens.issue(session, await principal_of(session, "member"), a_request(user="ci"))


async def test_a_bound_token_never_becomes_one_that_opens_more(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await make_user(session)
        free, _ = await auth.issue_token(session, await users.get_user(session, "ada"), "free")
        bound = await principal_of(session, "ada", bound_to="default")
        with pytest.raises(Forbidden):
            await tokens.issue(session, bound, a_request())
        with pytest.raises(NotFound):
            await tokens.rotate(session, bound, free.id, overlap=timedelta(0))
        assert free.id not in {view.token.id for view in await tokens.list_tokens(session, bound, None, ended=False)}
        assert (await tokens.issue(session, bound, a_request(project="default")))[0].token.project_id is not None


async def test_a_token_for_a_project_that_one_does_not_see_is_refused(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await projects.create(session, None, "secret")
        await make_user(session)
        with pytest.raises(NotFound):
            await tokens.issue(session, await principal_of(session, "ada"), a_request(project="secret"))
        await make_user(session, "root", role=None, is_admin=True)
        with pytest.raises(InvalidRequest, match="open nothing"):
            await tokens.issue(session, await principal_of(session, "root"), a_request(user="ada", project="secret"))


async def test_a_rotated_token_lives_on_for_the_overlap_and_its_successor_as_long_as_it_did(
    sessions: Sessions,
) -> None:
    async with sessions.begin() as session:
        await make_user(session)
        ada = await principal_of(session, "ada")
        old, old_secret = await tokens.issue(session, ada, a_request(lifetime=timedelta(days=7)))
        new, new_secret = await tokens.rotate(session, ada, old.token.id, overlap=timedelta(hours=1))
        for secret in (old_secret, new_secret):
            await auth.authenticate(session, secret)
        await session.refresh(old.token)
        assert old.token.expires_at is not None and new.token.expires_at is not None
        assert old.token.expires_at - old.token.created_at == timedelta(hours=1)
        assert new.token.expires_at - new.token.created_at == timedelta(days=7)
        gone, gone_secret = await tokens.rotate(session, ada, new.token.id, overlap=timedelta(0))
        with pytest.raises(Unauthenticated):
            await auth.authenticate(session, new_secret)
        assert gone_secret != new_secret and gone.token.name == "ci"
        with pytest.raises(NotAllowedNow):
            await tokens.rotate(session, ada, new.token.id, overlap=timedelta(0))


async def test_a_token_of_any_scope_revokes_itself_and_no_other(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        ada = await make_user(session)
        other, _ = await auth.issue_token(session, ada, "other")
        reader = await principal_of(session, "ada", scope=TokenScope.READ)
        with pytest.raises(Forbidden):
            await tokens.revoke(session, reader, other.id)
        assert (await tokens.revoke(session, reader, reader.token_id)).token.revoked_at is not None


async def test_a_specification_names_a_project_that_its_sender_is_a_member_of(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await projects.create(session, None, "secret")
        await make_user(session)
        ada = await principal_of(session, "ada")
        for project in ("secret", "absent"):
            with pytest.raises(InvalidSpec, match=f"no project '{project}' that you are a member of") as refused:
                await access.require_submission(session, ada, project)
            assert refused.value.details["errors"][0]["hint"] == "your projects: default"
        with pytest.raises(InvalidSpec) as near:
            await access.require_submission(session, ada, "defualt")
        assert near.value.details["errors"][0]["hint"] == "did you mean 'default'?"


async def test_an_archived_project_takes_neither_submission_nor_retry(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        ada, default = await make_user(session), await find_project(session)
        experiment = await make_experiment(session, user=ada)
        await experiments.cancel(session, experiment.id, user=ada)
        await projects.change(session, ada, default, archived=True)
        with pytest.raises(InvalidSpec, match="archived"):
            await make_experiment(session, user=ada)
        with pytest.raises(NotAllowedNow, match="archived"):
            await experiments.retry(session, experiment.id, user=ada)
        await projects.change(session, ada, default, archived=False)
        await experiments.retry(session, experiment.id, user=ada)


async def test_the_audit_log_tells_who_changed_what_from_what_to_what(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await make_user(session)
        ada, default = await principal_of(session, "ada"), await find_project(session)
        await users.create(session, None, "bob")
        await members.set_role(session, ada, default, "bob", ProjectRole.VIEWER)
        await members.set_role(session, ada, default, "bob", ProjectRole.MEMBER)
        found = await audit.entries_before(
            session, project=default, wanted=AuditFilter(actor="ada"), before=None, limit=10
        )
        newest, project = found[0]
        assert (newest.action, newest.target, project, newest.token_id) == (
            "member.set",
            "bob",
            "default",
            ada.token_id,
        )
        assert (newest.before, newest.after) == (
            {"role": "viewer", "source": "manual"},
            {"role": "member", "source": "manual"},
        )
        assert found[1][0].before is None


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        (AuditFilter(), 5),
        (AuditFilter(action="experiment"), 2),
        (AuditFilter(action="experiment.cancel"), 1),
        (AuditFilter(target="bob"), 1),
        (AuditFilter(actor="sedray"), 2),
    ],
)
async def test_filters_narrow_the_audit_log(sessions: Sessions, wanted: AuditFilter, number: int) -> None:
    async with sessions.begin() as session:
        ada = await make_user(session)  # made by the service itself, and a member
        await users.create(session, ada, "bob")
        experiment = await make_experiment(session, user=ada)
        await experiments.cancel(session, experiment.id, user=ada)
        entries = await audit.entries_before(session, project=None, wanted=wanted, before=None, limit=10)
        assert len(entries) == number


async def test_the_first_admin_is_made_once_unless_told(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        secret = await first_admin.make_first_admin(session, "root")
        caller = await auth.authenticate(session, secret)
        assert (caller.name, caller.governs) == ("root", True)
        with pytest.raises(NotAllowedNow, match="there is an admin already, 'root'"):
            await first_admin.make_first_admin(session, "ada")
        assert await first_admin.make_first_admin(session, "ada", force=True)


def test_the_command_prints_the_token_alone_on_standard_output(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEDRAY_DATABASE_URL", database_url)
    assert first_admin.main(["--name", "root"]) == 0
    assert capsys.readouterr().out.startswith("sr_")
    assert first_admin.main([]) == 1
    assert "--force" in capsys.readouterr().err


def test_the_command_says_what_is_missing(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SEDRAY_DATABASE_URL", raising=False)
    assert first_admin.main([]) == 1
    assert "SEDRAY_DATABASE_URL" in capsys.readouterr().err
    monkeypatch.setenv("SEDRAY_DATABASE_URL", empty_database_url)
    assert first_admin.main([]) == 1
    assert "migrations.apply" in capsys.readouterr().err
