"""The drivers' side: one attempt reports what it does. 409 `stale_attempt` tells a driver to stop."""

from fastapi import APIRouter

from api.deps import CurrentAttempt, SessionDep, SettingsDep
from api.problems import problem_responses
from service import attempts, reporting
from service.contract.messages import FinishReport, ReportAck, ReusedStage, StageResult, StartReply, WorkerReport
from service.contract.spec import ExperimentSpec
from service.telemetry import LINES, POINTS, REPORTS

router = APIRouter(prefix="/attempts/{attempt_id}", tags=["attempts"])
_PROBLEMS = problem_responses(401, 409, 413, 422)


@router.post("/start", summary="Begin, or begin again after a lost answer", responses=problem_responses(401, 409))
async def start_attempt(attempt: CurrentAttempt, session: SessionDep, settings: SettingsDep) -> StartReply:
    """All that the driver needs; a repeated start gives the same."""
    started = await attempts.start(session, attempt)
    return StartReply(
        experiment_id=started.experiment.id,
        attempt_id=started.attempt.id,
        attempt_number=started.attempt.number,
        spec=ExperimentSpec.model_validate(started.experiment.spec),
        output_dir=settings.output_dir(started.experiment.id),
        completed_stages=started.completed_stages,
        report_interval_s=settings.report_interval_s,
        nodes=started.nodes,
        reused_stages=[
            ReusedStage(stage=stage, experiment_id=source, output_dir=settings.output_dir(source))
            for stage, source in started.reused_stages.items()
        ],
    )


@router.post("/reports", summary="Report points, lines and completions; hear a wish to cancel", responses=_PROBLEMS)
async def take_report(attempt: CurrentAttempt, session: SessionDep, report: WorkerReport) -> ReportAck:
    """Reports are numbered from 1; one that is repeated is acknowledged and not stored again.

    422 `report_gap` names the number that is expected (`expected_seq`).
    """
    ack = await reporting.take_report(session, attempt, report)
    REPORTS.labels("duplicate" if ack.duplicate else "stored").inc()
    if not ack.duplicate:
        POINTS.inc(len(report.points) + sum(len(one.steps) for one in report.series))
        LINES.inc(len(report.log_lines))
    return ack


@router.post("/stage-results", summary="Leave the result of a finished stage", status_code=204, responses=_PROBLEMS)
async def take_stage_result(attempt: CurrentAttempt, session: SessionDep, result: StageResult) -> None:
    """The first result of a stage stays; a repeated one changes nothing."""
    await attempts.record_stage_result(session, attempt, result)


@router.post("/finish", summary="Say the last word", status_code=204, responses=_PROBLEMS)
async def finish_attempt(attempt: CurrentAttempt, session: SessionDep, report: FinishReport) -> None:
    """`completed` with steps or stage results missing becomes `incomplete`. May be repeated with the same reason."""
    await attempts.finish(session, attempt, report)
