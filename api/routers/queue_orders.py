"""What people order of the queue: one experiment's place, the queue as a whole, and quotas."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.access import Admin, ControllableExperiment, ManagedProject, ReadableExperiment
from api.deps import CurrentUser, SessionDep
from api.problems import problem_responses
from api.queue_schemas import (
    HoldOrder,
    MaintenanceOrder,
    MaintenanceOut,
    PauseOrder,
    PriorityOrder,
    PriorityOut,
    QueueOrdersOut,
    QuotaOrder,
    QuotaOut,
    QuotaPage,
)
from api.queue_shapes import read_orders, to_maintenance, to_priority, to_quota
from api.schemas import Experiment
from api.shapes import read_experiment
from service.queue import controls, explain, limits
from service.queue.naming import named_user

router = APIRouter(tags=["queue"])
UserName = Annotated[str, Path(description="A user's name.", max_length=100, examples=["ada"])]
WindowId = Annotated[str, Path(description="A maintenance window's id.", max_length=100)]
_ON_EXPERIMENT = problem_responses(401, 403, 404, 409, 413, 422)
_ON_QUEUE = problem_responses(401, 403, 404, 413, 422)


@router.get(
    "/experiments/{experiment_id}/priority",
    summary="Say why an experiment stands where it stands",
    responses=problem_responses(401, 404),
)
async def show_priority(experiment_id: ReadableExperiment, session: SessionDep) -> PriorityOut:
    """Every term of its place, when it will start with the error of such forecasts, and what would unblock it."""
    return to_priority(await explain.explain(session, experiment_id))


@router.post("/experiments/{experiment_id}/priority", summary="Move to another class", responses=_ON_EXPERIMENT)
async def change_priority(
    experiment_id: ControllableExperiment, user: CurrentUser, session: SessionDep, order: PriorityOrder
) -> Experiment:
    """Takes effect in the scheduler's next pass, also on who may stop a running one for a while."""
    await controls.set_priority(session, experiment_id, order.priority, user=user)
    return await read_experiment(session, experiment_id)


@router.post("/experiments/{experiment_id}/hold", summary="Keep from starting", responses=_ON_EXPERIMENT)
async def hold_experiment(
    experiment_id: ControllableExperiment, user: CurrentUser, session: SessionDep, order: HoldOrder
) -> Experiment:
    """A queued experiment keeps its age, but does not start until it is released."""
    await controls.hold(session, experiment_id, user=user, reason=order.reason)
    return await read_experiment(session, experiment_id)


@router.post("/experiments/{experiment_id}/release", summary="Let start again", responses=_ON_EXPERIMENT)
async def release_experiment(
    experiment_id: ControllableExperiment, user: CurrentUser, session: SessionDep
) -> Experiment:
    """Does nothing for one that is not held."""
    await controls.release(session, experiment_id, user=user)
    return await read_experiment(session, experiment_id)


@router.get("/queue/orders", summary="Show pauses and maintenance windows", responses=problem_responses(401))
async def show_queue_orders(user: CurrentUser, session: SessionDep) -> QueueOrdersOut:
    """What keeps the queue, or a project of yours, from starting experiments."""
    return await read_orders(session, user.visible)


@router.post("/queue/pause", summary="Start nothing new, and perhaps drain", responses=_ON_QUEUE)
async def pause_queue(admin: Admin, session: SessionDep, order: PauseOrder) -> QueueOrdersOut:
    """What runs goes on, unless it is to be drained: then it stops at its next checkpoint, until `resume`."""
    await controls.pause(session, None, user=admin, reason=order.reason, drains=order.drain)
    return await read_orders(session, admin.visible)


@router.post("/queue/resume", summary="Start experiments again", responses=_ON_QUEUE)
async def resume_queue(admin: Admin, session: SessionDep) -> QueueOrdersOut:
    """Pauses of projects stay as they are."""
    await controls.resume(session, None, user=admin)
    return await read_orders(session, admin.visible)


@router.post("/projects/{project}/pause", summary="Start nothing new of a project", responses=_ON_QUEUE)
async def pause_project(
    project: ManagedProject, user: CurrentUser, session: SessionDep, order: PauseOrder
) -> QueueOrdersOut:
    """As for the whole queue, for one project."""
    await controls.pause(session, project, user=user, reason=order.reason, drains=order.drain)
    return await read_orders(session, user.visible)


@router.post("/projects/{project}/resume", summary="Start a project's experiments again", responses=_ON_QUEUE)
async def resume_project(project: ManagedProject, user: CurrentUser, session: SessionDep) -> QueueOrdersOut:
    """A pause of the whole queue stays as it is."""
    await controls.resume(session, project, user=user)
    return await read_orders(session, user.visible)


@router.post("/queue/maintenance", summary="Plan a time in which nothing runs", status_code=201, responses=_ON_QUEUE)
async def plan_maintenance(admin: Admin, session: SessionDep, order: MaintenanceOrder) -> MaintenanceOut:
    """Nothing is started that might still run then, by its `max_runtime_s`. What runs already is left alone."""
    window = await controls.add_window(
        session, starts_at=order.starts_at, ends_at=order.ends_at, reason=order.reason, user=admin
    )
    return to_maintenance(window)


@router.delete("/queue/maintenance/{window_id}", summary="Take a maintenance window back", responses=_ON_QUEUE)
async def cancel_maintenance(admin: Admin, session: SessionDep, window_id: WindowId) -> MaintenanceOut:
    """Also one that has begun."""
    return to_maintenance(await controls.remove_window(session, window_id, user=admin))


@router.get("/queue/quotas", summary="Show quotas and what is used of them", responses=problem_responses(401))
async def list_quotas(user: CurrentUser, session: SessionDep) -> QuotaPage:
    """Of your projects: each project's own before those of its users."""
    return QuotaPage(items=[to_quota(view) for view in await limits.list_quotas(session, user.visible)])


@router.put("/projects/{project}/quota", summary="Set a project's quota", responses=_ON_QUEUE)
async def set_project_quota(admin: Admin, project: ManagedProject, session: SessionDep, order: QuotaOrder) -> QuotaOut:
    """The whole of it: what is left out has no limit. Submissions feel it at once, starts in the next pass."""
    return to_quota(await limits.set_quota(session, project, None, order.model_dump(), user=admin))


@router.put("/projects/{project}/users/{user_name}/quota", summary="Set a user's quota", responses=_ON_QUEUE)
async def set_user_quota(
    project: ManagedProject, user: CurrentUser, session: SessionDep, user_name: UserName, order: QuotaOrder
) -> QuotaOut:
    """Within the project. The whole of it: what is left out has no limit."""
    whose = await named_user(session, user_name)
    return to_quota(await limits.set_quota(session, project, whose, order.model_dump(), user=user))
