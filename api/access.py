"""What a route may be called for. Its signature is the access rule: each alias here is one rule.

    experiment_id: ReadableExperiment       a viewer of its project
    experiment_id: ControllableExperiment   a member for their own, a maintainer for others'
    study_id: ReadableStudy                 a viewer of its project
    study_id: ControllableStudy             a member for their own, a maintainer for others'
    project: ReadableProject                a viewer           } the project whose name stands in the path
    project: OverseenProject                a maintainer       }
    project: ManagedProject                 a maintainer, with a token of scope `admin`
    admin: AdminReader, Admin               an admin; `Admin` with a token of scope `admin`
    user: CurrentUser                       any valid token: for what concerns the caller alone, or is narrowed to
                                            `user.visible`, or asks `service.access` itself

What lies in a project that the caller may not see is answered with 404, as if it did not exist. No session stays open
after a check, so a live stream holds none.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Path

from api.deps import CurrentUser, SessionsDep
from service import access
from service.access import Action, Principal
from service.contract.access import TokenScope
from service.storage.tables import Project

ExperimentId = Annotated[str, Path(description="An experiment's id.", examples=["exp-01j9z8k7m6n5p4q3"])]
StudyId = Annotated[str, Path(description="A study's id.", examples=["study-01j9z8k7m6n5p4q3"])]
ProjectName = Annotated[str, Path(description="A project's name.", max_length=63, examples=["default"])]


def _experiment(action: Action) -> Callable[..., Awaitable[str]]:
    async def allowed(user: CurrentUser, sessions: SessionsDep, experiment_id: ExperimentId) -> str:
        async with sessions() as session:
            await access.require_experiment(session, user, experiment_id, action)
        return experiment_id

    return allowed


def _study(action: Action) -> Callable[..., Awaitable[str]]:
    async def allowed(user: CurrentUser, sessions: SessionsDep, study_id: StudyId) -> str:
        async with sessions() as session:
            await access.require_study(session, user, study_id, action)
        return study_id

    return allowed


def _project(action: Action) -> Callable[..., Awaitable[Project]]:
    async def allowed(user: CurrentUser, sessions: SessionsDep, project: ProjectName) -> Project:
        async with sessions() as session:
            return await access.require_project(session, user, project, action)

    return allowed


def _admin(scope: TokenScope) -> Callable[..., Awaitable[Principal]]:
    async def allowed(user: CurrentUser) -> Principal:
        access.require_admin(user, scope)
        return user

    return allowed


ReadableExperiment = Annotated[str, Depends(_experiment(Action.READ))]
"""The id of an experiment that the caller may read."""
ControllableExperiment = Annotated[str, Depends(_experiment(Action.CONTROL))]
"""The id of an experiment that the caller may cancel and retry."""
ReadableStudy = Annotated[str, Depends(_study(Action.READ))]
"""The id of a study that the caller may read."""
ControllableStudy = Annotated[str, Depends(_study(Action.CONTROL))]
"""The id of a study that the caller may amend, pause and cancel."""
ReadableProject = Annotated[Project, Depends(_project(Action.READ))]
OverseenProject = Annotated[Project, Depends(_project(Action.OVERSEE))]
ManagedProject = Annotated[Project, Depends(_project(Action.MANAGE))]
AdminReader = Annotated[Principal, Depends(_admin(TokenScope.READ))]
Admin = Annotated[Principal, Depends(_admin(TokenScope.ADMIN))]
