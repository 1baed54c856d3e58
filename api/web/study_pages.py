"""The pages of studies: the list, and one study. Made from the same answers as their JSON twins."""

from dataclasses import dataclass
from urllib.parse import urlencode

import yaml
from fastapi import APIRouter, Request, Response

from api.access import ReadableStudy
from api.deps import CurrentUser, SessionDep, SettingsDep, StudyReportsDep
from api.routers.studies import list_studies, list_study_runs, show_study
from api.study_schemas import StudyRunOut
from api.web.page_routes import PageRoute, templates
from api.web.study_view import VIEW
from service.contract.status import ExperimentStatus
from service.contract.studies import baseline_of
from service.contract.study_changes import StudyState
from service.tenancy import projects

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_WATCHED = {"state", "message", "runs", "half_widths"}
"""What the page's script compares to know whether anything has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRow:
    """An arm with its runs in order."""

    name: str
    is_baseline: bool
    runs: list[StudyRunOut]

    def count(self, status: ExperimentStatus) -> int:
        """Runs of this status."""
        return sum(run.status is status for run in self.runs)


@router.get("/studies")
async def studies_page(
    request: Request,
    user: CurrentUser,
    session: SessionDep,
    settings: SettingsDep,
    state: str = "",
    project: str = "",
    name: str = "",
    cursor: str = "",
) -> Response:
    """The list, filtered; a state that does not exist filters nothing."""
    wanted = StudyState(state) if state in set(StudyState) else None
    page = await list_studies(
        user, session, state=wanted, project=project or None, name=name or None, limit=50, cursor=cursor or None
    )
    filters = {"state": state, "project": project, "name": name}
    following = {key: value for key, value in filters.items() if value} | {"cursor": page.next_cursor}
    context = {
        "user": user.name,
        "ray_dashboard_url": settings.ray_dashboard_public_url,
        "page": page,
        "filters": filters,
        "states": list(StudyState),
        "projects": [view.project.name for view in await projects.list_visible(session, user, archived=True)],
        "next_query": urlencode(following),
    }
    return templates.TemplateResponse(request, "studies.html", context)


@router.get("/studies/{study_id}")
async def study_page(
    request: Request,
    study_id: ReadableStudy,
    user: CurrentUser,
    session: SessionDep,
    settings: SettingsDep,
    reports: StudyReportsDep,
) -> Response:
    """State, arms, runs, report, amendments, plan and specification; the report stands in a template of its own."""
    # A large report takes a while: it is made before the session has begun anything.
    report = (await reports.current(study_id)).report
    study = await show_study(study_id, session)
    runs = (await list_study_runs(study_id, session)).items
    arms = [
        ArmRow(
            name=arm,
            is_baseline=baseline_of(study.spec, arm) == arm,
            runs=[run for run in runs if run.arm == arm],
        )
        for arm in dict.fromkeys(run.arm for run in runs)
    ]
    context = {
        "user": user.name,
        "ray_dashboard_url": settings.ray_dashboard_public_url,
        "study": study,
        "seen": study.model_dump(mode="json", include=_WATCHED),
        "arms": arms,
        "statuses": [status for status in ExperimentStatus if study.runs.get(status)],
        "report": report,
        "view": VIEW,
        "excluded": [run for run in runs if run.excluded_at is not None],
        "spec_yaml": yaml.safe_dump(study.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    }
    return templates.TemplateResponse(request, "study.html", context)
