"""Reads what the stages of experiments left behind, without the counts by prompt, which are long and read elsewhere."""

from collections.abc import Collection

from sqlalchemy import JSON, literal_column, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncSession

from service.storage.tables import StageResultRow
from service.study_report.run_facts import StoredStage

_FACTS = ("code", "reused_from", "num_tokens", "prompts_sha256", "data_sha256", "tokenizer_sha256", "template_sha256")
_FURTHER = """(
    SELECT jsonb_object_agg(key, value -> 'prompts_sha256')
    FROM jsonb_each(stage_results.result -> 'detail' -> 'further_sets')
)"""
"""Digests of the prompts of the sets behind the first, by name."""


async def stored_stages(session: AsyncSession, experiment_ids: Collection[str]) -> dict[str, list[StoredStage]]:
    """By experiment, in the order in which they finished."""
    result, detail = StageResultRow.result, StageResultRow.result["detail"]
    rows = await session.execute(
        select(
            StageResultRow.experiment_id,
            StageResultRow.stage,
            StageResultRow.attempt_id,
            result["duration_s"].as_float().label("duration_s"),
            result["metrics"].label("metrics"),
            *(detail[name].label(name) for name in _FACTS),
            type_coerce(literal_column(_FURTHER), JSON).label("further_prompts"),
        )
        .where(StageResultRow.experiment_id.in_(sorted(experiment_ids)))
        .order_by(StageResultRow.created_at, StageResultRow.stage)
    )
    found: dict[str, list[StoredStage]] = {}
    for row in rows:
        facts = {name: getattr(row, name) for name in (*_FACTS, "further_prompts")}
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
