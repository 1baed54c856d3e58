"""One order for many experiments: each in a transaction of its own, and each refused or done by itself."""

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncSession

from api.bulk_schemas import BulkOrder, BulkOutcome, BulkReply
from api.deps import CurrentUser, SessionsDep
from api.problems import problem_responses
from service import experiments
from service.access import Action, Principal, require_experiment
from service.contract.status import ExperimentStatus
from service.errors import SedrayError
from service.queue import controls
from service.storage.tables import Experiment

router = APIRouter(tags=["experiments"])


@router.post(
    "/experiments/bulk", summary="Order the same of many experiments", responses=problem_responses(401, 413, 422)
)
async def order_many(user: CurrentUser, sessions: SessionsDep, order: BulkOrder) -> BulkReply:
    """The rules are those of the single orders; `items` says of each experiment what came of it."""
    items: list[BulkOutcome] = []
    for experiment_id in order.ids:
        try:
            async with sessions.begin() as session:
                await require_experiment(session, user, experiment_id, Action.CONTROL)
                changed = await _carry_out(session, user, experiment_id, order)
        except SedrayError as error:
            items.append(BulkOutcome(id=experiment_id, done=False, code=error.code, detail=error.message))
        else:
            items.append(BulkOutcome(id=experiment_id, done=True, status=ExperimentStatus(changed.status)))
    return BulkReply(items=items, num_done=sum(item.done for item in items))


async def _carry_out(session: AsyncSession, user: Principal, experiment_id: str, order: BulkOrder) -> Experiment:
    match order.action:
        case "cancel":
            return await experiments.cancel(session, experiment_id, user=user)
        case "retry":
            return await experiments.retry(session, experiment_id, user=user)
        case "hold":
            return await controls.hold(session, experiment_id, user=user, reason=order.reason)
        case "release":
            return await controls.release(session, experiment_id, user=user)
        case "priority":
            assert order.priority is not None, "checked on the wire"
            return await controls.set_priority(session, experiment_id, order.priority, user=user)
