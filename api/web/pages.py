"""The page of one experiment, made from the same answers as its JSON twin."""

import yaml
from fastapi import APIRouter, Request, Response

from api.access import ReadableExperiment
from api.deps import CurrentUser, LogReaderDep, SessionDep, SettingsDep
from api.results import sft_facts, shown_bytes
from api.routers.experiments import show_experiment
from api.schemas import Event, Experiment
from api.shapes import to_event
from api.web.page_routes import PageRoute, templates
from api.web.views import chart_groups, has_token_views, result_rows, stage_rows
from service import certificates, experiments, log_store
from service.contract.certificates import DeathCertificate
from service.log_archive import LogFilter

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_LOG_LINES = 500
_ROLLOUTS = 12
_EVENTS = 500
_CERTIFICATES = 10


@router.get("/experiments/{experiment_id}")
async def experiment_page(
    request: Request,
    experiment_id: ReadableExperiment,
    user: CurrentUser,
    session: SessionDep,
    settings: SettingsDep,
    reader: LogReaderDep,
) -> Response:
    """Stages, results, live charts, rollouts, events, log and specification."""
    # Older lines lie in the storage: they are read before the session has begun anything.
    logs = await reader.newest(experiment_id, count=_LOG_LINES, wanted=LogFilter())
    experiment = await show_experiment(experiment_id, session)
    events = await _all_events(session, experiment_id)
    context = {
        "user": user.name,
        "ray_dashboard_url": settings.ray_dashboard_public_url,
        "experiment": experiment,
        "stages": stage_rows(experiment),
        "results": result_rows(experiment),
        "sft_facts": sft_facts(experiment),
        "charts": chart_groups(experiment, events),
        "has_token_views": has_token_views(experiment),
        "shown_bytes": shown_bytes,
        "events": events,
        "certificates": await _certificates(session, experiment),
        "rollouts": await log_store.rollouts_before(
            session, experiment_id, stage=None, step=None, before=None, limit=_ROLLOUTS
        ),
        "logs": logs,
        "spec_yaml": yaml.safe_dump(experiment.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    }
    return templates.TemplateResponse(request, "experiment.html", context)


async def _certificates(session: SessionDep, experiment: Experiment) -> list[DeathCertificate]:
    """Of the newest ended attempts, oldest first."""
    ended = [attempt.number for attempt in experiment.attempts if attempt.ended_at is not None]
    return [await certificates.read(session, experiment.id, number) for number in ended[-_CERTIFICATES:]]


async def _all_events(session: SessionDep, experiment_id: str) -> list[Event]:
    rows = await experiments.events_after(session, experiment_id, after=0, limit=_EVENTS)
    return [to_event(row) for row in rows]
