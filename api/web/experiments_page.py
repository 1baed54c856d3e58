"""The list of experiments, made from the same answers as its JSON twins."""

from typing import get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from api.deps import CurrentUser, SessionDep
from api.routers.experiments import ListQuery, PageQuery, count_experiments, list_experiments
from api.web.page_routes import PageRoute, templates
from api.web.permissions import permissions_of
from service import listing
from service.contract.objectives import ObjectiveSpec
from service.contract.spec import PriorityName
from service.contract.status import ExperimentStatus
from service.listing import LIST_ORDERS, ListOrder

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_FILTERS = ("project", "user", "tag", "objective", "name", "text")
_ORDER_LABELS: dict[ListOrder, str] = {
    "newest": "newest first",
    "oldest": "oldest first",
    "started": "started last",
    "ended": "ended last",
    "name": "name",
}


_OBJECTIVES: tuple[type[BaseModel], ...] = get_args(get_args(ObjectiveSpec)[0])
OBJECTIVE_NAMES = sorted(member.model_fields["type"].default for member in _OBJECTIVES)
"""As specifications and the list's filter name them."""


@router.get("/")
async def experiments_page(request: Request, user: CurrentUser, session: SessionDep) -> Response:
    """Searched, filtered and sorted by the query; what it cannot mean narrows nothing."""
    query = _read(request)
    page = await list_experiments(user, session, query)
    narrowed = query.model_dump(include=set(ListQuery.model_fields), exclude_none=True)
    context = {
        "user": user.name,
        "page": page,
        "counts": await count_experiments(user, session, query),
        "query": query,
        "is_narrowed": bool({key: value for key, value in narrowed.items() if value}),
        "link": lambda **changes: _link(query, **changes),
        "allowed": await permissions_of(session, user),
        "statuses": list(ExperimentStatus),
        "objectives": OBJECTIVE_NAMES,
        "people": await listing.submitters(session, user.visible),
        "orders": _ORDER_LABELS,
        "priorities": get_args(PriorityName),
    }
    return templates.TemplateResponse(request, "experiments.html", context)


def _read(request: Request) -> PageQuery:
    """A form sends what was left empty as well, and an old link may hold what means nothing any more."""
    given = request.query_params
    statuses = [ExperimentStatus(one) for one in given.getlist("status") if one in set(ExperimentStatus)]
    order = next((one for one in LIST_ORDERS if one == given.get("order")), "newest")
    texts = {name: given[name].strip()[:200] for name in _FILTERS if given.get(name, "").strip()}
    return PageQuery(status=statuses, order=order, cursor=given.get("cursor") or None, **texts)


def _link(query: PageQuery, **changes: object) -> str:
    """The same list with some of the query changed, from its first page unless a cursor is among the changes."""
    kept = query.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True, exclude_defaults=True)
    merged = {key: value for key, value in (kept | changes).items() if value not in (None, "", [])}
    return "?" + urlencode(merged, doseq=True)
