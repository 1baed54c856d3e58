"""A project with somebody in every role, something of everything that is read, and targets made when needed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, auth, experiments, reporting, studies
from service.contract.access import ProjectRole, TokenScope
from service.contract.status import EndReason
from service.contract.stored_rollouts import stored_rollouts_folder, stored_rollouts_name
from service.queue import controls
from service.storage.database import Sessions
from service.storage.tables import User
from service.storage.webhook_tables import Webhook
from service.tenancy import members, projects, users
from service.webhooks import registry
from tests.api.access_table import PROJECT
from tests.factories import (
    NOW,
    find_project,
    make_attempt,
    make_experiment,
    make_report,
    make_stage_result,
    make_study,
    make_token_view,
    make_user,
)

ELSEWHERE = "elsewhere"
_ROLES = {
    "viewer": ProjectRole.VIEWER,
    "member": ProjectRole.MEMBER,
    "owner": ProjectRole.MEMBER,
    "maintainer": ProjectRole.MAINTAINER,
}


@dataclass
class World:
    """Tokens by caller, and the places of a path filled in."""

    sessions: Sessions
    tokens: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    def fresh(self) -> str:
        """A name that nobody has."""
        return f"fresh-{next(self.numbers)}"

    async def target(self, kind: str | None) -> dict[str, str]:
        """The places of a path, with a target of this kind made anew."""
        makers: dict[str, Callable[[], Awaitable[dict[str, str]]]] = {
            "queued_experiment": self._queued_experiment,
            "held_experiment": self._held_experiment,
            "paused_queue": self._paused_queue,
            "paused_project": self._paused_project,
            "window": self._window,
            "cancelled_experiment": self._cancelled_experiment,
            "user": self._user,
            "fresh_member": self._member,
            "service_account": self._service_account,
            "webhook": self._webhook,
            "dead_delivery": self._dead_delivery,
            "token": self._token,
            "study": self._study,
            "paused_study": self._paused_study,
            "excluded_run": self._excluded_run,
        }
        return self.places | (await makers[kind]() if kind else {})

    async def _queued_experiment(self) -> dict[str, str]:
        async with self.sessions.begin() as session:
            owner = await users.get_user(session, "owner")
            return {"experiment_id": (await make_experiment(session, user=owner, project=PROJECT)).id}

    async def _cancelled_experiment(self) -> dict[str, str]:
        places = await self._queued_experiment()
        async with self.sessions.begin() as session:
            owner = await users.get_user(session, "owner")
            await experiments.cancel(session, places["experiment_id"], user=owner)
        return places

    async def _held_experiment(self) -> dict[str, str]:
        places = await self._queued_experiment()
        async with self.sessions.begin() as session:
            owner = await users.get_user(session, "owner")
            await controls.hold(session, places["experiment_id"], user=owner, reason="")
        return places

    async def _paused_queue(self) -> dict[str, str]:
        async with self.sessions.begin() as session:
            await controls.pause(session, None, user=await users.get_user(session, "admin"), reason="")
        return {}

    async def _paused_project(self) -> dict[str, str]:
        async with self.sessions.begin() as session:
            project, admin = await find_project(session, PROJECT), await users.get_user(session, "admin")
            await controls.pause(session, project, user=admin, reason="")
        return {}

    async def _window(self) -> dict[str, str]:
        begin = datetime(2099, 1, 1, tzinfo=UTC)
        async with self.sessions.begin() as session:
            admin = await users.get_user(session, "admin")
            window = await controls.add_window(
                session, starts_at=begin, ends_at=begin + timedelta(days=1), reason="", user=admin
            )
            return {"window_id": window.id}

    async def _user(self) -> dict[str, str]:
        async with self.sessions.begin() as session:
            return {"name": (await users.create(session, None, self.fresh())).name}

    async def _member(self) -> dict[str, str]:
        async with self.sessions.begin() as session:
            return {"name": (await make_user(session, self.fresh(), project=PROJECT)).name}

    async def _service_account(self) -> dict[str, str]:
        name = self.fresh()
        async with self.sessions.begin() as session:
            await add_service_account(session, name)
        return {"name": name}

    async def _webhook(self) -> dict[str, str]:
        async with self.sessions.begin() as session:
            await session.execute(delete(Webhook))
            project, admin = await find_project(session, PROJECT), await users.get_user(session, "admin")
            webhook = await registry.create(
                session, admin, project, name="a", url="https://example.org", events=[], allowed_hosts=()
            )
            return {"webhook_id": webhook.id}

    async def _dead_delivery(self) -> dict[str, str]:
        places = await self._webhook()
        async with self.sessions.begin() as session:
            project, admin = await find_project(session, PROJECT), await users.get_user(session, "admin")
            delivery = await registry.send_test(session, admin, project, places["webhook_id"])
            delivery.status, delivery.finished_at = "dead", NOW
            return {**places, "delivery_id": delivery.id}

    async def _study(self) -> dict[str, str]:
        async with self.sessions.begin() as session:
            study = await make_study(session, user=await users.get_user(session, "owner"), project=PROJECT)
            run = (await studies.runs(session, study.id))[0]
            return {"study_id": study.id, "experiment_id": run.run.experiment_id}

    async def _paused_study(self) -> dict[str, str]:
        places = await self._study()
        async with self.sessions.begin() as session:
            owner = await users.get_user(session, "owner")
            await studies.pause(session, places["study_id"], user=owner, reason="")
        return places

    async def _excluded_run(self) -> dict[str, str]:
        places = await self._study()
        async with self.sessions.begin() as session:
            owner = await users.get_user(session, "owner")
            await studies.exclude(session, *places.values(), user=owner, reason="broken")
        return places

    async def _token(self) -> dict[str, str]:
        async with self.sessions.begin() as session:
            token, _ = await auth.issue_token(session, await users.get_user(session, "owner"), "target")
            return {"token_id": token.id}


async def add_service_account(session: AsyncSession, name: str) -> User:
    """A service account of the project, a member."""
    project, admin = await find_project(session, PROJECT), await users.get_user(session, "admin")
    return (await members.add_service_account(session, admin, project, name, ProjectRole.MEMBER)).user


async def make_world(sessions: Sessions, secret: bytes, output_root: Path) -> World:
    """The project `team`, its people and their tokens, one experiment that is over, one whose attempt runs."""
    world = World(sessions=sessions)
    async with sessions.begin() as session:
        for name in (PROJECT, ELSEWHERE):
            await projects.create(session, None, name)
        await make_user(session, "admin", role=None, is_admin=True)
        await _add_people(session, world)
        await _add_odd_tokens(session, world)
        owner = await users.get_user(session, "owner")
        done = await make_attempt(session, await make_experiment(session, user=owner, project=PROJECT))
        await reporting.take_report(session, done, make_report(token_views=[make_token_view(step=1)]))
        await attempts.record_stage_result(session, done, make_stage_result())
        await attempts.end_attempt(session, done, EndReason.STAGE_FAILED, "broken", {})
        live = await make_attempt(session, await make_experiment(session, user=owner, project=PROJECT))
        study = await make_study(session, user=owner, project=PROJECT)
    world.tokens["attempt"] = auth.attempt_token(secret, live.id, live.number)
    world.places = {
        "project": PROJECT,
        "experiment_id": done.experiment_id,
        "attempt_id": live.id,
        "study_id": study.id,
        "user_name": "owner",
        "attempt_number": "1",
        "stage": "sft",
        "step": "1",
        "sample_index": "0",
        "output_id": "sft.model",
    }
    folder = Path(stored_rollouts_folder(str(output_root / done.experiment_id), "whole"))
    folder.mkdir(parents=True)
    (folder / stored_rollouts_name(1)).write_bytes(b"PAR1")
    model = output_root / done.experiment_id / "models" / "sft"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    return world


async def _add_people(session: AsyncSession, world: World) -> None:
    """One user for each role, and their tokens of every scope and binding."""
    team, elsewhere = await find_project(session, PROJECT), await find_project(session, ELSEWHERE)
    people = {name: await make_user(session, name, project=PROJECT, role=role) for name, role in _ROLES.items()}
    people["stranger"] = await make_user(session, "stranger", role=None)
    people["outsider"] = await make_user(session, "outsider", project=ELSEWHERE)
    people["admin"] = await users.get_user(session, "admin")
    for name, user in people.items():
        world.tokens[name] = (await auth.issue_token(session, user, name))[1]
    maintainer, admin = people["maintainer"], people["admin"]
    await members.set_role(session, None, elsewhere, maintainer.name, ProjectRole.MAINTAINER)
    service = await add_service_account(session, "service")
    for name, user, scope, project in (
        ("maintainer_read", maintainer, TokenScope.READ, None),
        ("maintainer_write", maintainer, TokenScope.WRITE, None),
        ("bound_here", maintainer, TokenScope.ADMIN, team),
        ("bound_elsewhere", maintainer, TokenScope.ADMIN, elsewhere),
        ("service", service, TokenScope.WRITE, None),
        ("admin_read", admin, TokenScope.READ, None),
        ("admin_bound", admin, TokenScope.ADMIN, team),
    ):
        world.tokens[name] = (await auth.issue_token(session, user, name, scope=scope, project=project))[1]


async def _add_odd_tokens(session: AsyncSession, world: World) -> None:
    """Tokens that nobody accepts, of somebody who might do everything here."""
    maintainer = await users.get_user(session, "maintainer")
    world.tokens["garbage"] = "sr_garbage"
    _, world.tokens["expired"] = await auth.issue_token(session, maintainer, "old", NOW.replace(year=2020))
    revoked, world.tokens["revoked"] = await auth.issue_token(session, maintainer, "lost")
    await auth.revoke_token(session, revoked.id)
    left = await make_user(session, "left", project=PROJECT)
    _, world.tokens["disabled"] = await auth.issue_token(session, left, "left")
    left.disabled_at = NOW
