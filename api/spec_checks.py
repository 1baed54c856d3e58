"""From a specification's text to findings at their lines and, where there are none, to what would follow from it."""

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.spec_check_schemas import ExperimentCheck, StartOutlook, StudyCheck, TextFinding, TextPlace
from api.spec_text import SpecText, number_hint, read_spec_text, value_at
from api.study_submission import plan_study_now
from api.submission import PlanExperiment, plan_now
from service import queue
from service.access import Principal
from service.contract.spec import PRIORITY_RANK, ExperimentSpec
from service.contract.status import ExperimentStatus
from service.contract.strict_model import StrictModel, describe_errors
from service.contract.studies import StudySpec
from service.errors import CannotRun, InvalidSpec, QuotaExceeded
from service.queue.snapshot import read_snapshot
from service.storage.database import Sessions
from service.storage.tables import Experiment

Spec = TypeVar("Spec", bound=StrictModel)
Plan = TypeVar("Plan")


async def check_experiment(sessions: Sessions, planner: PlanExperiment, user: Principal, text: str) -> ExperimentCheck:
    """Stores nothing. Raises Forbidden for whoever may not submit to the project that is named."""
    read = read_spec_text(text)
    spec, findings = _validated(read, ExperimentSpec)
    plan = start = None
    if spec is not None:
        plan, findings = await _planned(read, lambda: plan_now(sessions, planner, user, spec))
        if plan is not None:
            async with sessions() as session:
                start = await _outlook(session, spec)
    return ExperimentCheck(findings=findings, body=read.body, places=_places(read), plan=plan, start=start)


async def check_study(sessions: Sessions, planner: PlanExperiment, user: Principal, text: str) -> StudyCheck:
    """The same for a study."""
    read = read_spec_text(text)
    spec, findings = _validated(read, StudySpec)
    plan = None
    if spec is not None:
        plan, findings = await _planned(read, lambda: plan_study_now(sessions, planner, user, spec))
    return StudyCheck(findings=findings, body=read.body, places=_places(read), plan=plan)


def _validated(read: SpecText, model: type[Spec]) -> tuple[Spec | None, list[TextFinding]]:
    """Relative paths are refused too: a text has no folder that they could be seen from."""
    if read.body is None:
        return None, [
            TextFinding(line=one.line + 1, field=one.field, problem=one.problem, hint=one.hint) for one in read.problems
        ]
    try:
        spec = model.model_validate(read.body)
    except ValidationError as error:
        found = [_at_its_line(read, entry) for entry in describe_errors(error, model)]
        return None, [*found, *_relative_paths(read)]
    relative = list(_relative_paths(read))
    return (None, relative) if relative else (spec, [])


async def _planned(read: SpecText, plan: Callable[[], Awaitable[Plan]]) -> tuple[Plan | None, list[TextFinding]]:
    try:
        return await plan(), []
    except (CannotRun, InvalidSpec, QuotaExceeded) as error:
        told: Sequence[Mapping[str, Any]] = error.details.get("errors") or [{"field": "", "problem": error.message}]
        return None, [_at_its_line(read, entry) for entry in told]


def _at_its_line(read: SpecText, entry: Mapping[str, Any]) -> TextFinding:
    path = str(entry.get("field", ""))
    hint = number_hint(value_at(read.body, path)) or entry.get("hint") or ""
    return TextFinding(line=read.line_of(path) + 1, field=path, problem=str(entry["problem"]), hint=hint)


def _relative_paths(read: SpecText) -> Iterator[TextFinding]:
    for path in read.places:
        value = value_at(read.body, path) if path.rsplit(".", 1)[-1] == "path" else None
        if not isinstance(value, str) or not value or value.startswith("/") or "://" in value:
            continue
        around = value_at(read.body, path.rpartition(".")[0])
        if isinstance(around, Mapping) and around.get("type") == "huggingface":
            continue
        yield TextFinding(
            line=read.line_of(path) + 1,
            field=path,
            problem=f"{value!r} is relative, and a page has no folder that it could be seen from",
            hint="give the whole path on the cluster's storage; `sedray submit FILE` takes paths relative to the file",
        )


def _places(read: SpecText) -> dict[str, TextPlace]:
    return {path: TextPlace(**asdict(place)) for path, place in read.places.items() if path}


async def _outlook(session: AsyncSession, spec: ExperimentSpec) -> StartOutlook:
    """From what the scheduler saw last; the scheduler itself decides when it is there."""
    queued = Experiment.status == ExperimentStatus.QUEUED.value
    ahead = (queued, Experiment.priority_rank <= PRIORITY_RANK[spec.priority])
    num_queued = await session.scalar(select(func.count()).select_from(Experiment).where(queued)) or 0
    ids = list(await session.scalars(select(Experiment.id).where(*ahead)))
    fits = await _fits(session, spec)
    last = await _last_start(session, ids)
    if fits is None:
        words = "unknown: the cluster has not been seen"
    elif not ids and fits:
        words = "at once: what is free holds it, and nobody waits before it"
    elif not ids:
        words = "when enough of what runs now has ended: nobody waits before it"
    else:
        behind = f"behind {len(ids)} that wait before it" if len(ids) > 1 else "behind 1 that waits before it"
        known = f"; the last of them is expected to start by {last:%Y-%m-%d %H:%M} UTC at the latest" if last else ""
        words = f"{behind}{known}{', or sooner in a gap: what is free would hold it' if fits else ''}"
    return StartOutlook(place=len(ids) + 1, num_queued=num_queued, fits_now=fits, words=words)


async def _fits(session: AsyncSession, spec: ExperimentSpec) -> bool | None:
    state, taken = await queue.cluster_state(session), await queue.taken(session)
    if state is None or not state.reachable:
        return None
    free_cpus, free_gpus = state.num_cpus - taken.num_cpus, state.num_gpus - taken.num_gpus
    return spec.resources.num_cpus <= free_cpus and spec.resources.num_gpus <= free_gpus


async def _last_start(session: AsyncSession, ids: Sequence[str]) -> datetime | None:
    seen = await read_snapshot(session)
    starts = dict(zip(seen.experiment_ids, seen.starts, strict=False)) if seen else {}
    known = [at for one in ids if math.isfinite(at := starts.get(one, math.inf))]
    return datetime.fromtimestamp(max(known), UTC) if known else None
