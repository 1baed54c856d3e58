"""The page of one experiment, made from the same answers as its JSON twin."""

import json
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api import specification
from api.access import ReadableExperiment
from api.deps import CurrentUser, LogReaderDep, SessionDep, SettingsDep
from api.lineage import read_lineage, read_specification
from api.results import sft_facts, shown_bytes
from api.routers.experiments import show_experiment
from api.routers.outputs import read_spend
from api.schemas import Event, Experiment
from api.shapes import to_event
from api.web.log_part import newest_lines
from api.web.page_routes import PageRoute, templates
from api.web.views import chart_groups, has_token_views, result_rows, stage_rows
from service import certificates, experiments, metric_store
from service.contract.certificates import DeathCertificate

router = APIRouter(route_class=PageRoute, include_in_schema=False)
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
    against: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """Course, results, live charts, rollouts, log, specification and outputs."""
    # Older lines lie in the storage: they are read before the session has begun anything.
    log = await newest_lines(reader, experiment_id)
    experiment = await show_experiment(experiment_id, session)
    events = await _all_events(session, experiment_id)
    known = {entry.name for entry in await metric_store.list_names(session, experiment_id)}
    charts = chart_groups(experiment, events, known)
    context = {
        "user": user.name,
        "ray_dashboard_url": settings.ray_dashboard_public_url,
        "experiment": experiment,
        "stages": stage_rows(experiment),
        "results": result_rows(experiment),
        "sft_facts": sft_facts(experiment),
        "charts": charts,
        "has_token_views": has_token_views(experiment),
        "token_view_group": next((group.key for group in reversed(charts) if group.key in ("sft", "sed")), ""),
        "shown_bytes": shown_bytes,
        "events": events,
        "certificates": await _certificates(session, experiment),
        "log": log,
        "specification": await read_specification(session, user, experiment_id, against or None),
        "spec_lines": specification.lines(experiment.spec),
        "as_yaml": specification.as_yaml,
        "as_json": partial(json.dumps, ensure_ascii=False),
        "lineage": await read_lineage(session, user, experiment),
        "spend": await read_spend(session, experiment_id),
    }
    return templates.TemplateResponse(request, "experiment.html", context)


async def _certificates(session: SessionDep, experiment: Experiment) -> list[DeathCertificate]:
    """Of the newest ended attempts, oldest first."""
    ended = [attempt.number for attempt in experiment.attempts if attempt.ended_at is not None]
    return [await certificates.read(session, experiment.id, number) for number in ended[-_CERTIFICATES:]]


async def _all_events(session: SessionDep, experiment_id: str) -> list[Event]:
    rows = await experiments.events_after(session, experiment_id, after=0, limit=_EVENTS)
    return [to_event(row) for row in rows]
