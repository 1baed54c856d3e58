"""Runs the stages that are still to do, in order, and writes down what each leaves behind."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from service.contract.messages import StageResult
from service.contract.stages import StageName
from workers.pipeline.endings import Incomplete
from workers.pipeline.trainer_restarts import TrainerRestarts
from workers.stages.evaluate import EvaluationPlace, run_evaluation
from workers.stages.resume import needs_engine, needs_trainer, pending_stages, restore_policy
from workers.stages.reuse import usable_results
from workers.stages.rl import run_rl
from workers.stages.sft import run_sft
from workers.stages.stage_context import StageContext, StageOutcome

logger = logging.getLogger(__name__)


def run_stages(
    context: StageContext, completed: Sequence[StageResult], finished: Callable[[StageResult], None]
) -> list[StageResult]:
    """All stages' results, those of earlier attempts first; `finished` is called after each stage of this one.

    Trainer and rollout engine start side by side, each only if some stage asks for it. Raises Incomplete, and whatever
    a stage raises.
    """
    results = {result.stage: result for result in usable_results(context, completed, context.reused)}
    pending = pending_stages(context.spec, results)
    if needs_engine(context.spec, pending):
        context.engine.begin_start()
    if needs_trainer(pending):
        context.trainer.begin_load()
        restore_policy(context, results)
    restarts = TrainerRestarts(context=context)
    for stage in pending:
        result = _timed(context, stage, results, restarts)
        results[stage] = result
        finished(result)
    return [results[stage] for stage in context.spec.stage_names()]


def _timed(
    context: StageContext, stage: StageName, results: dict[StageName, StageResult], restarts: TrainerRestarts
) -> StageResult:
    logger.info("stage started", extra={"stage": stage})
    started_at, began = datetime.now(UTC), time.monotonic()
    outcome = restarts.run(stage, results, lambda: _run(context, stage, results))
    duration_s = time.monotonic() - began
    if outcome.steps_done != outcome.steps_planned:
        raise Incomplete(stage, outcome.steps_done, outcome.steps_planned)
    logger.info("stage finished", extra={"stage": stage, "duration_s": round(duration_s, 3)})
    # The stages have no common count of steps: their times are numbered by their order.
    context.reports.points(context.spec.stage_names().index(stage) + 1, {"timing_s/stage": duration_s})
    return StageResult(
        stage=stage,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        duration_s=duration_s,
        steps_done=outcome.steps_done,
        steps_planned=outcome.steps_planned,
        metrics=outcome.metrics | {"timing_s/stage": duration_s},
        checkpoint=outcome.checkpoint,
        detail=outcome.detail | {"code": dict(context.code)},
    )


def _run(context: StageContext, stage: StageName, results: dict[StageName, StageResult]) -> StageOutcome:
    spec = context.spec
    if stage == "sft":
        assert spec.sft is not None
        return run_sft(context, spec.sft)
    if stage == "rl":
        assert spec.rl is not None
        return run_rl(context, spec.rl, num_sft_steps=_global_step("evaluate_after_sft", results))
    assert spec.evaluation is not None
    return run_evaluation(
        context, spec.evaluation, EvaluationPlace(stage=stage, global_step=_global_step(stage, results))
    )


def _global_step(stage: StageName, results: dict[StageName, StageResult]) -> int:
    """SFT and RL steps that the evaluated policy has seen."""
    trained: dict[StageName, tuple[StageName, ...]] = {
        "evaluate_base": (),
        "evaluate_after_sft": ("sft",),
        "evaluate_after_rl": ("sft", "rl"),
    }
    return sum(results[name].steps_done for name in trained[stage] if name in results)
