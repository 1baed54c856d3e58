"""Reads a study as it stands, and cheaply whether anything of it has changed."""

from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

import service.contract
from service.contract.studies import StudySpec, num_planned_runs
from service.contract.study_changes import StudyState
from service.storage.study_tables import Study, StudyAmendment, StudyRun
from service.storage.tables import Attempt, Experiment, StageResultRow
from service.studies import spec_and_amendments, view
from service.study_report.facts import Amendment, StudyFacts
from service.study_report.reading import read_runs
from service.versions import sedray_version

_LOCK_FILE = "requirements.lock"


async def read_study(session: AsyncSession, study_id: str, now: datetime) -> StudyFacts:
    """All that a report needs. Raises NotFound."""
    found = await view(session, study_id)
    study = found.study
    spec, changes = await spec_and_amendments(session, study)
    planned, most = num_planned_runs(spec), spec.budget.max_experiments
    return StudyFacts(
        id=study.id,
        project=found.project,
        spec=spec,
        spec_sha256=sha256(StudySpec.model_validate(study.spec).model_dump_json().encode()).hexdigest(),
        amendments=[Amendment(at=one.at, by=one.by, what=_in_words(one), reason=one.reason) for one in changes],
        runs=await read_runs(session, study_id, now),
        num_planned=planned if most is None else min(most, planned),
        is_over=not StudyState(study.state).is_open,
        service_version=sedray_version(),
        lock_sha256=lock_sha256(),
    )


async def read_stamp(session: AsyncSession, study_id: str) -> str:
    """Another one whenever a run, a result, an amendment or the study's state is another."""
    study = select(Study.state_at).where(Study.id == study_id).scalar_subquery()
    amended = select(func.count()).where(StudyAmendment.study_id == study_id).scalar_subquery()
    results = (
        select(func.count(), func.max(StageResultRow.created_at))
        .join(StudyRun, StudyRun.experiment_id == StageResultRow.experiment_id)
        .where(StudyRun.study_id == study_id)
    )
    attempts = (
        select(func.count(), func.count(Attempt.ended_at), func.count(Attempt.released_at))
        .join(StudyRun, StudyRun.experiment_id == Attempt.experiment_id)
        .where(StudyRun.study_id == study_id)
    )
    facts = func.concat_ws(" ", StudyRun.experiment_id, Experiment.status, StudyRun.excluded_at)
    runs = (
        select(study, amended, func.md5(func.string_agg(facts, func.chr(10))), func.count())
        .join(Experiment, Experiment.id == StudyRun.experiment_id)
        .where(StudyRun.study_id == study_id)
    )
    parts = [tuple((await session.execute(statement)).one()) for statement in (runs, results, attempts)]
    return sha256(repr([sedray_version(), *parts]).encode()).hexdigest()[:32]


def _in_words(amendment: StudyAmendment) -> str:
    said = ", ".join(f"{key}: {value}" for key, value in amendment.change.items() if value not in (None, [], {}))
    return f"{amendment.kind.replace('_', ' ')} ({said})"


@cache
def lock_sha256() -> str | None:
    """Of the lock file of dependencies beside the service's sources; None where there is none."""
    path = Path(next(iter(service.contract.__path__))).parents[1] / _LOCK_FILE
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else None
