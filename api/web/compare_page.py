"""The page that puts experiments side by side, made from the same comparison as its JSON twin."""

from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from api.deps import CurrentUser, SessionDep, SettingsDep
from api.routers.compare import SelectionDep, WantedDep
from api.web.page_routes import PageRoute, templates
from api.web.views import LABELS
from service.comparison import compare
from service.contract.comparison import Comparison, MetricCurves, ResultRow
from service.contract.study_report import Figure
from service.study_report.rendering.text import number

router = APIRouter(route_class=PageRoute, include_in_schema=False)
AXES = {"steps": "step", "seconds": "hours of work", "tokens": "tokens trained"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResults:
    """The results of one stage."""

    label: str
    is_evaluation: bool
    rows: list[ResultRow]


@router.get("/compare")
async def compare_page(
    request: Request,
    user: CurrentUser,
    session: SessionDep,
    settings: SettingsDep,
    selection: SelectionDep,
    wanted: WantedDep,
) -> Response:
    """Groups, warnings, results and curves; without a choice, the form that makes one."""
    found = None if selection.is_empty else await compare(session, user, selection, wanted)
    context = {
        "user": user.name,
        "ray_dashboard_url": settings.ray_dashboard_public_url,
        "selection": selection,
        "chosen_by": found.by if found else [],
        "found": found,
        "stages": stage_results(found) if found else [],
        "plots": [plot_of(one) for one in found.curves] if found else [],
        "axes": AXES,
        "cell": cell,
        "query": urlencode(list(request.query_params.multi_items())),
    }
    return templates.TemplateResponse(request, "compare.html", context)


def stage_results(found: Comparison) -> list[StageResults]:
    """In the order of the comparison."""
    return [
        StageResults(
            label=LABELS[stage],
            is_evaluation=stage.startswith("evaluate"),
            rows=[row for row in found.results if row.stage == stage],
        )
        for stage in dict.fromkeys(row.stage for row in found.results)
    ]


def plot_of(curves: MetricCurves) -> dict[str, Any]:
    """What the page's script draws: hours instead of seconds, everything else as it stands."""
    traces = [
        {**one.model_dump(), "seconds": None if one.seconds is None else [second / 3600 for second in one.seconds]}
        for one in curves.curves
    ]
    return {"metric": curves.metric, "unit": curves.unit, "meaning": curves.meaning, "curves": traces}


def cell(figure: Figure) -> str:
    """`0.570 ± 0.014`: the mean as exact as its interval, which has two digits."""
    reach = figure.half_width
    if not reach or not isfinite(reach):
        return number(figure.mean) + ("" if reach is None else f" ± {reach:g}")
    digits = min(max(1 - floor(log10(reach)), 0), 6)
    return f"{figure.mean:.{digits}f} ± {reach:.{digits}f}"
