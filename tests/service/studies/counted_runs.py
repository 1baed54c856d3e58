"""Runs of a study brought to their end, with counts that a test chooses."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, studies
from service.contract.stages import StageName
from service.contract.status import EndReason
from service.storage.tables import Experiment
from service.studies import RunView
from tests.factories import make_attempt, make_stage_result


async def runs_of(session: AsyncSession, study_id: str) -> list[RunView]:
    """In their order."""
    return await studies.runs(session, study_id)


async def succeed(
    session: AsyncSession,
    experiment_id: str,
    num_correct: Sequence[int] = (1, 2, 3, 4),
    stage: StageName = "evaluate_after_rl",
) -> None:
    """The run succeeds with these right ones of 4 samples for each prompt."""
    attempt = await make_attempt(session, await session.get_one(Experiment, experiment_id, populate_existing=True))
    counts = list(num_correct)
    columns = {
        "uid": list(range(len(counts))),
        "num_correct": counts,
        "mean_reward": [count / 4 for count in counts],
        "majority": [float(count > 2) for count in counts],
        "num_answers": [2] * len(counts),
        "num_clipped": [0] * len(counts),
        "num_tokens": [32] * len(counts),
    }
    detail = {"num_prompts": len(counts), "num_generations": 4, "per_prompt": columns}
    await attempts.record_stage_result(session, attempt, make_stage_result(stage, detail=detail))
    await attempts.end_attempt(session, attempt, EndReason.COMPLETED, "", {})


async def fail(session: AsyncSession, experiment_id: str) -> None:
    """The run fails for good."""
    attempt = await make_attempt(session, await session.get_one(Experiment, experiment_id, populate_existing=True))
    await attempts.end_attempt(session, attempt, EndReason.STAGE_FAILED, "broken", {})
