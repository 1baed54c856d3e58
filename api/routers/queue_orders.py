"""What people order of the queue: one experiment's place, the queue as a whole, and quotas."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.deps import SessionDep
from api.problems import problem_responses
from api.queue_access import ExperimentId, ExperimentOperator, ExperimentReader, QueueOperator, QueueReader
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
    ResumeOrder,
)
from api.queue_shapes import read_orders, to_maintenance, to_priority, to_quota
from api.schemas import Experiment
from api.shapes import read_experiment
from service.queue import controls, explain, limits
from service.queue.naming import named_project, named_user

router = APIRouter(tags=["queue"])
ProjectName = Annotated[str, Path(description="A project's name.", examples=["default"])]
UserName = Annotated[str, Path(description="A user's name.", examples=["ada"])]
_ON_EXPERIMENT = problem_responses(401, 403, 404, 409, 422)
_ON_QUEUE = problem_responses(401, 403, 404, 422)


@router.get(
    "/experiments/{experiment_id}/priority",
    summary="Say why an experiment stands where it stands",
    responses=problem_responses(401, 404),
)
async def show_priority(_: ExperimentReader, session: SessionDep, experiment_id: ExperimentId) -> PriorityOut:
    """Every term of its place, when it will start with the error of such forecasts, and what would unblock it."""
    return to_priority(await explain.explain(session, experiment_id))


@router.post("/experiments/{experiment_id}/priority", summary="Move to another class", responses=_ON_EXPERIMENT)
async def change_priority(
    user: ExperimentOperator, session: SessionDep, experiment_id: ExperimentId, order: PriorityOrder
) -> Experiment:
    """Takes effect in the scheduler's next pass, also on who may stop a running one for a while."""
    await controls.set_priority(session, experiment_id, order.priority, by=user.name)
    return await read_experiment(session, experiment_id)


@router.post("/experiments/{experiment_id}/hold", summary="Keep from starting", responses=_ON_EXPERIMENT)
async def hold_experiment(
    user: ExperimentOperator, session: SessionDep, experiment_id: ExperimentId, order: HoldOrder
) -> Experiment:
    """A queued experiment keeps its age, but does not start until it is released."""
    await controls.hold(session, experiment_id, by=user.name, reason=order.reason)
    return await read_experiment(session, experiment_id)


@router.post("/experiments/{experiment_id}/release", summary="Let start again", responses=_ON_EXPERIMENT)
async def release_experiment(user: ExperimentOperator, session: SessionDep, experiment_id: ExperimentId) -> Experiment:
    """Does nothing for one that is not held."""
    await controls.release(session, experiment_id, by=user.name)
    return await read_experiment(session, experiment_id)


@router.get("/queue/orders", summary="Show pauses and maintenance windows", responses=problem_responses(401))
async def show_orders(_: QueueReader, session: SessionDep) -> QueueOrdersOut:
    """What keeps the queue, or a project, from starting experiments."""
    return await read_orders(session)


@router.post("/queue/pause", summary="Start nothing new, and perhaps drain", responses=_ON_QUEUE)
async def pause_queue(user: QueueOperator, session: SessionDep, order: PauseOrder) -> QueueOrdersOut:
    """Anywhere or in one project. What runs goes on, unless it is to be drained: then it stops at its next checkpoint
    and goes on when the queue is resumed."""
    project = await named_project(session, order.project) if order.project else None
    await controls.pause(session, project, by=user.name, reason=order.reason, drains=order.drain)
    return await read_orders(session)


@router.post("/queue/resume", summary="Start experiments again", responses=_ON_QUEUE)
async def resume_queue(_: QueueOperator, session: SessionDep, order: ResumeOrder) -> QueueOrdersOut:
    """The pause of a project and that of the whole queue are ended one by one."""
    await controls.resume(session, await named_project(session, order.project) if order.project else None)
    return await read_orders(session)


@router.post("/queue/maintenance", summary="Plan a time in which nothing runs", status_code=201, responses=_ON_QUEUE)
async def plan_maintenance(user: QueueOperator, session: SessionDep, order: MaintenanceOrder) -> MaintenanceOut:
    """Nothing is started that might still run then, by its `max_runtime_s`. What runs already is left alone."""
    window = await controls.add_window(
        session, starts_at=order.starts_at, ends_at=order.ends_at, reason=order.reason, by=user.name
    )
    return to_maintenance(window)


@router.delete("/queue/maintenance/{window_id}", summary="Take a maintenance window back", responses=_ON_QUEUE)
async def cancel_maintenance(_: QueueOperator, session: SessionDep, window_id: str) -> MaintenanceOut:
    """Also one that has begun."""
    return to_maintenance(await controls.remove_window(session, window_id))


@router.get("/queue/quotas", summary="Show quotas and what is used of them", responses=problem_responses(401))
async def list_quotas(_: QueueReader, session: SessionDep) -> QuotaPage:
    """Each project's own before those of its users."""
    return QuotaPage(items=[to_quota(view) for view in await limits.list_quotas(session)])


@router.put("/queue/quotas/{project}", summary="Set a project's quota", responses=_ON_QUEUE)
async def set_project_quota(
    user: QueueOperator, session: SessionDep, project: ProjectName, order: QuotaOrder
) -> QuotaOut:
    """The whole of it: what is left out has no limit. Submissions feel it at once, starts in the next pass."""
    owner = await named_project(session, project)
    view, _ = await limits.set_quota(session, owner, None, order.model_dump(), by=user.name)
    return to_quota(view)


@router.put("/queue/quotas/{project}/users/{user_name}", summary="Set a user's quota in a project", responses=_ON_QUEUE)
async def set_user_quota(
    user: QueueOperator, session: SessionDep, project: ProjectName, user_name: UserName, order: QuotaOrder
) -> QuotaOut:
    """The whole of it: what is left out has no limit."""
    owner, whose = await named_project(session, project), await named_user(session, user_name)
    view, _ = await limits.set_quota(session, owner, whose, order.model_dump(), by=user.name)
    return to_quota(view)
