"""The queue's page, made from the same answers as its JSON twins."""

from typing import get_args

from fastapi import APIRouter, Request, Response

from api.cluster_shapes import to_gpu_types
from api.deps import CurrentUser, SessionDep
from api.queue_schemas import RoleHoldingOut
from api.queue_shapes import read_orders, to_role
from api.routers.queue import show_queue, show_standings
from api.web.page_routes import PageRoute, templates
from api.web.permissions import permissions_of
from service.contract.spec import PriorityName
from service.queue.capacity import read_capacity

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_ON_A_PAGE = 50


@router.get("/queue")
async def queue_page(request: Request, user: CurrentUser, session: SessionDep, offset: int = 0) -> Response:
    """Who runs, who waits, why and for how long; what there is and who uses it; and orders for those allowed."""
    offset = max(offset, 0)
    queue = await show_queue(user, session, limit=_ON_A_PAGE, offset=offset)
    capacity = await read_capacity(session)
    context = {
        "user": user.name,
        "queue": queue,
        "orders": await read_orders(session, user.visible),
        "standings": (await show_standings(user, session)).items,
        "gpu_types": to_gpu_types(capacity),
        "roles": [to_role(role) for role in capacity.by_role],
        "allowed": await permissions_of(session, user),
        "priorities": get_args(PriorityName),
        "demand": demand,
        "offset": offset,
        "previous": max(offset - _ON_A_PAGE, 0) if offset else None,
        "following": offset + _ON_A_PAGE if queue.num_queued > offset + _ON_A_PAGE else None,
    }
    return templates.TemplateResponse(request, "queue.html", context)


def demand(roles: list[RoleHoldingOut]) -> str:
    """`2 trainer, 1 rollout`: how many actors of each role."""
    return ", ".join(f"{role.num_actors} {role.role}" for role in roles)
