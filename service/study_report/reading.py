"""Reads the runs of a study from the database; each table once, series run by run, as the metric store merges them."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

import numpy as np
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service import metric_store
from service.contract.spec import ExperimentSpec
from service.contract.status import EndReason
from service.storage.study_tables import StudyRun
from service.storage.tables import Attempt, Experiment, StageResultRow
from service.studies.counts import POINTS, STAGES, RunCounts, read_counts
from service.study_report.costs import GEN_BATCHES, LENGTHS, RL_PARTS
from service.study_report.curves import CURVE_METRICS, STEP_SECONDS, TOKENS
from service.study_report.facts import AttemptFacts, RunFacts, StepSeries
from service.study_report.run_facts import (
    StoredAttempt,
    StoredStage,
    attempt_facts,
    conditions_of,
    sft_key_of,
    stage_facts,
    training_data,
)

SERIES = (*CURVE_METRICS, STEP_SECONDS, TOKENS, LENGTHS, GEN_BATCHES, *RL_PARTS.values())
SFT_TOKENS = "sft/num_tokens"
_MAX_POINTS = 4000
_FACTS = ("code", "reused_from", "num_tokens", "prompts_sha256", "data_sha256", "tokenizer_sha256", "template_sha256")


async def read_runs(session: AsyncSession, study_id: str, now: datetime) -> list[RunFacts]:
    """All runs of the study, in their order."""
    counted = await read_counts(session, study_id)
    specs = await _specs(session, study_id)
    stages = await _stages(session, study_id)
    attempts = await _attempts(session, study_id)
    sources = {one.source_id(name) for name, found in stages.items() for one in found if one.stage == "sft"}
    sft_tokens = {source: await _sum_of(session, source, SFT_TOKENS) for source in sorted(sources)}
    return [
        _run(
            run,
            specs[run.experiment_id],
            stages.get(run.experiment_id, []),
            [attempt_facts(one, now) for one in attempts.get(run.experiment_id, [])],
            sft_tokens,
            await _series(session, run) if run.has_rl else {},
        )
        for run in counted
    ]


def _run(
    run: RunCounts,
    spec: ExperimentSpec,
    stages: Sequence[StoredStage],
    attempts: Sequence[AttemptFacts],
    sft_tokens: dict[str, float],
    series: dict[str, StepSeries],
) -> RunFacts:
    rl, metrics = spec.rl, {one.stage: one.metrics for one in stages}
    return RunFacts(
        **{one.name: getattr(run, one.name) for one in fields(RunCounts)},
        model=f"{spec.model.path} ({spec.model.dtype})",
        sft_key=sft_key_of(spec, run.experiment_id),
        metrics={point: metrics[stage] for point in POINTS if (stage := STAGES[point]) in metrics},
        conditions=conditions_of(spec, run.points, stages),
        training_data=training_data(spec, stages),
        stages=[stage_facts(run.experiment_id, one, sft_tokens) for one in stages],
        attempts=attempts,
        num_cpus=spec.held_resources.num_cpus,
        num_gpus=spec.held_resources.num_gpus,
        updates_per_step=rl.num_samples_per_step / rl.num_sequences_per_update * rl.num_iterations if rl else 0.0,
        completions_per_step=rl.num_samples_per_step if rl else 0,
        series=series,
    )


async def _specs(session: AsyncSession, study_id: str) -> dict[str, ExperimentSpec]:
    rows = await session.execute(
        select(Experiment.id, Experiment.spec)
        .join(StudyRun, StudyRun.experiment_id == Experiment.id)
        .where(StudyRun.study_id == study_id)
    )
    return {row.id: ExperimentSpec.model_validate(row.spec) for row in rows}


async def _stages(session: AsyncSession, study_id: str) -> dict[str, list[StoredStage]]:
    """Without the counts by prompt, which are long and read elsewhere."""
    result, detail = StageResultRow.result, StageResultRow.result["detail"]
    rows = await session.execute(
        select(
            StageResultRow.experiment_id,
            StageResultRow.stage,
            StageResultRow.attempt_id,
            result["duration_s"].as_float().label("duration_s"),
            result["metrics"].label("metrics"),
            *(detail[name].label(name) for name in _FACTS),
        )
        .join(StudyRun, StudyRun.experiment_id == StageResultRow.experiment_id)
        .where(StudyRun.study_id == study_id)
        .order_by(StageResultRow.created_at, StageResultRow.stage)
    )
    found: dict[str, list[StoredStage]] = {}
    for row in rows:
        facts = {name: getattr(row, name) for name in _FACTS}
        found.setdefault(row.experiment_id, []).append(
            StoredStage(
                stage=row.stage,
                attempt_id=row.attempt_id,
                duration_s=row.duration_s,
                metrics={name: float(value) for name, value in row.metrics.items()},
                facts=facts,
            )
        )
    return found


async def _attempts(session: AsyncSession, study_id: str) -> dict[str, list[StoredAttempt]]:
    rows = await session.scalars(
        select(Attempt)
        .join(StudyRun, StudyRun.experiment_id == Attempt.experiment_id)
        .where(StudyRun.study_id == study_id)
        .order_by(Attempt.experiment_id, Attempt.number)
        .execution_options(populate_existing=True)
    )
    found: dict[str, list[StoredAttempt]] = {}
    for row in rows:
        found.setdefault(row.experiment_id, []).append(
            StoredAttempt(
                id=row.id,
                created_at=row.created_at,
                ended_at=row.ended_at,
                released_at=row.released_at,
                end_reason=EndReason(row.end_reason) if row.end_reason else None,
                num_cpus=row.num_cpus,
                num_gpus=row.num_gpus,
            )
        )
    return found


async def _series(session: AsyncSession, run: RunCounts) -> dict[str, StepSeries]:
    found = await metric_store.read_series(session, run.experiment_id, SERIES, _MAX_POINTS)
    return {one.name: _as_steps(one) for one in found}


def _as_steps(series: metric_store.Series) -> StepSeries:
    if series.points is not None:
        return StepSeries(steps=np.array(series.points.steps), values=np.array(series.points.values, dtype=float))
    known = [bucket for bucket in series.envelope if bucket.mean is not None]
    steps, values = [bucket.last_step for bucket in known], [bucket.mean for bucket in known]
    return StepSeries(steps=np.array(steps), values=np.array(values, dtype=float))


async def _sum_of(session: AsyncSession, experiment_id: str, name: str) -> float:
    """Over all steps of a series."""
    for one in await metric_store.read_series(session, experiment_id, [name], _MAX_POINTS):
        if one.points is not None:
            return float(np.nansum(np.array(one.points.values, dtype=float)))
        return sum(bucket.mean * bucket.num_points for bucket in one.envelope if bucket.mean is not None)
    return 0.0
