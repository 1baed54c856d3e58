"""What a driver's report sets in motion: one transaction for its number and all that it holds."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, log_store, metric_store, token_views
from service.contract.messages import LentEngine, ReportAck, WorkerReport
from service.contract.status import ExperimentStatus
from service.storage.scheduling_tables import AttemptHolding
from service.storage.tables import Attempt, Experiment
from service.storage.transitions import notify


async def take_report(session: AsyncSession, attempt: Attempt, report: WorkerReport) -> ReportAck:
    """Stores a report exactly once and answers whether the driver should stop.

    All of it shares the transaction in which the report's number is taken: a report whose acknowledgement was lost is
    sent again, found to be a duplicate and stored no second time. Raises what `attempts.accept_report` raises.
    """
    duplicate = await attempts.accept_report(session, attempt, report)
    if not duplicate:
        await metric_store.append_points(session, attempt, report.points)
        await log_store.append_lines(session, attempt, report.log_lines)
        await log_store.append_rollouts(session, attempt, report.rollouts)
        await token_views.store_views(session, attempt, report.token_views)
        await attempts.record_run_events(session, attempt, report.events)
        await notify(session, attempt.experiment_id)
    wishes = await session.execute(
        select(Experiment.status, AttemptHolding.preempt_requested_at, AttemptHolding.bundles)
        .outerjoin(AttemptHolding, AttemptHolding.attempt_id == attempt.id)
        .where(Experiment.id == attempt.experiment_id)
    )
    status, preempt_requested_at, bundles = wishes.one()
    return ReportAck(
        seq=report.seq,
        duplicate=duplicate,
        cancel=status == ExperimentStatus.CANCELLING.value,
        preempt=preempt_requested_at is not None,
        lent_engines=[
            LentEngine(id=bundle["lent"], node=bundle["node"])
            for bundle in bundles or []
            if bundle.get("state") == "held"
        ],
    )
