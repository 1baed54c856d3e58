"""Looks up what an action is about and decides. What one may not see does not exist: NotFound, in the same words."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache

from sqlalchemy import Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.access.principal import Action, Principal, Visible
from service.contract.access import TokenScope
from service.errors import Forbidden, InvalidSpec, NotFound
from service.storage.study_tables import Study
from service.storage.tables import Experiment, Project


async def require_experiment(session: AsyncSession, principal: Principal, experiment_id: str, action: Action) -> None:
    """Raises NotFound for an experiment that does not exist or may not be seen, Forbidden if the action is refused."""
    facts = await session.execute(
        select(Experiment.project_id, Experiment.user_id, Project.name)
        .join(Project, Project.id == Experiment.project_id)
        .where(Experiment.id == experiment_id)
    )
    found = facts.one_or_none()
    role = principal.role_in(found.project_id) if found is not None else None
    if found is None or role is None:
        raise no_experiment(experiment_id)
    principal.require(action, role=role, project=found.name, owner_id=found.user_id)


async def require_study(session: AsyncSession, principal: Principal, study_id: str, action: Action) -> None:
    """The same for a study, whose owner is who submitted it."""
    facts = await session.execute(
        select(Study.project_id, Study.user_id, Project.name)
        .join(Project, Project.id == Study.project_id)
        .where(Study.id == study_id)
    )
    found = facts.one_or_none()
    role = principal.role_in(found.project_id) if found is not None else None
    if found is None or role is None:
        raise no_study(study_id)
    principal.require(action, role=role, project=found.name, owner_id=found.user_id)


async def require_project(session: AsyncSession, principal: Principal, name: str, action: Action) -> Project:
    """The project of this name; raises NotFound and Forbidden as for an experiment."""
    project = await session.scalar(select(Project).where(Project.name == name))
    role = principal.role_in(project.id) if project is not None else None
    if project is None or role is None:
        raise NotFound(f"there is no project {name!r} that you are a member of; list the projects to find its name")
    principal.require(action, role=role, project=name)
    return project


async def require_submission(
    session: AsyncSession, principal: Principal, project: str, known: Project | None = None
) -> Project:
    """The project that a specification names, if the caller may submit there; `known` spares the look-up by its name.

    Raises InvalidSpec for one that does not exist, may not be seen or is archived, Forbidden for a role that is short.
    """
    found = await project_named(session, project, principal.visible, known)
    role = principal.role_in(found.id)
    assert role is not None, "it was searched among those with a role"
    principal.require(Action.SUBMIT, role=role, project=project)
    return found


def require_admin(principal: Principal, scope: TokenScope) -> None:
    """Raises Forbidden unless the caller governs the service and the token is for that."""
    if not principal.is_admin:
        raise Forbidden(f"only an admin may do this, and {principal.name} is none; ask an admin")
    if not principal.governs:
        raise Forbidden(f"token {principal.token_name!r} is bound to one project; use one that is not")
    principal.require_scope(scope)


async def project_named(session: AsyncSession, name: str, visible: Visible, known: Project | None = None) -> Project:
    """The project that a specification names, among the visible ones; raises InvalidSpec, also for an archived one."""
    project = known or await session.scalar(_project_of_name(), {"name": name})
    if project is None or not visible.includes(project.id):
        names = await session.scalars(select(Project.name).where(visible.where(Project.id)).order_by(Project.name))
        raise _refused(f"no project {name!r} that you are a member of", _hint(name, names.all()))
    if project.archived_at is not None:
        raise archived_project(name)
    return project


def archived_project(name: str) -> InvalidSpec:
    """The refusal of a submission to a project that is archived."""
    return _refused(f"project {name!r} is archived", "choose another, or ask a maintainer to take it up again")


def no_experiment(experiment_id: str) -> NotFound:
    """The refusal for an experiment that does not exist, and for one that may not be seen."""
    return NotFound(f"there is no experiment {experiment_id!r}; list the experiments to find its id")


@cache
def _project_of_name() -> Select[Project]:
    """Asked with every submission, so it is put together once."""
    return select(Project).where(Project.name == bindparam("name"))


def no_study(study_id: str) -> NotFound:
    """The refusal for a study that does not exist, and for one that may not be seen."""
    return NotFound(f"there is no study {study_id!r}; list the studies to find its id")


def _hint(name: str, known: Sequence[str]) -> str:
    if near := get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean {near[0]!r}?"
    return f"your projects: {', '.join(known)}" if known else "you are a member of none; ask an admin"


def _refused(problem: str, hint: str) -> InvalidSpec:
    return InvalidSpec(f"{problem}; {hint}", errors=[{"field": "project", "problem": problem, "hint": hint}])
