"""Reads the runs of a study from the database: each table once, and the series of many runs together."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.spec import ExperimentSpec
from service.contract.status import EndReason
from service.storage.study_tables import StudyRun
from service.storage.tables import Attempt, Experiment
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
from service.study_report.step_series import read_step_series, read_sums
from service.study_report.stored_stages import stored_stages

SERIES = (*CURVE_METRICS, STEP_SECONDS, TOKENS, LENGTHS, GEN_BATCHES, *RL_PARTS.values())
SFT_TOKENS = "sft/num_tokens"


async def read_runs(session: AsyncSession, study_id: str, now: datetime) -> list[RunFacts]:
    """All runs of the study, in their order."""
    counted = await read_counts(session, study_id)
    specs = await _specs(session, study_id)
    stages = await stored_stages(session, specs)
    attempts = await _attempts(session, study_id)
    sources = {one.source_id(name) for name, found in stages.items() for one in found if one.stage == "sft"}
    sft_tokens = await read_sums(session, sources, SFT_TOKENS)
    series = await read_step_series(session, [run.experiment_id for run in counted if run.has_rl], SERIES)
    return [
        _run(
            run,
            specs[run.experiment_id],
            stages.get(run.experiment_id, []),
            [attempt_facts(one, now) for one in attempts.get(run.experiment_id, [])],
            sft_tokens,
            series.get(run.experiment_id, {}),
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
        conditions=conditions_of(spec, stages),
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
