"""What a driver's report sets in motion: one transaction for its number and all that it holds."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, log_store, metric_store, sentinels, token_views
from service.contract.messages import LentEngine, MetricColumns, ReportAck, WorkerReport
from service.contract.sentinels import Limit
from service.contract.status import EndReason, ExperimentStatus
from service.storage.scheduling_tables import AttemptHolding
from service.storage.tables import Attempt, Experiment
from service.storage.transitions import lock_experiment, notify, record_event


async def take_report(session: AsyncSession, attempt: Attempt, report: WorkerReport) -> ReportAck:
    """Stores a report exactly once and answers whether the driver should stop.

    All of it shares the transaction in which the report's number is taken: a report whose acknowledgement was lost is
    sent again, found to be a duplicate and stored no second time. Raises what `attempts.accept_report` raises.
    """
    columns = report.columns()
    limits = await sentinels.load_limits(session, attempt.experiment_id) if columns else []
    if sentinels.any_passed(limits, columns):
        # An alarm is written under the experiment's lock, which comes before the attempt's.
        await lock_experiment(session, attempt.experiment_id)
    duplicate = await attempts.accept_report(session, attempt, report)
    stopped = False
    if not duplicate:
        await metric_store.append_columns(session, attempt, columns, is_held=True)
        await log_store.append_lines(session, attempt, report.log_lines)
        await log_store.append_rollouts(session, attempt, report.rollouts)
        await token_views.store_views(session, attempt, report.token_views)
        await attempts.record_run_events(session, attempt, report.events)
        stopped = await _heed_sentinels(session, attempt, limits, columns)
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
        cancel=stopped or status == ExperimentStatus.CANCELLING.value,
        preempt=preempt_requested_at is not None,
        lent_engines=[
            LentEngine(id=bundle["lent"], node=bundle["node"])
            for bundle in bundles or []
            if bundle.get("state") == "held"
        ],
    )


async def _heed_sentinels(
    session: AsyncSession, attempt: Attempt, limits: list[Limit], columns: list[MetricColumns]
) -> bool:
    """Tells of every alarm; ends the attempt at the first that says so, and returns whether it did.

    It is ended before its driver has stopped: from then on whatever the driver writes is refused.
    """
    alarms = await sentinels.watch(session, attempt, limits, columns)
    for alarm in alarms:
        await record_event(
            session, attempt.experiment_id, "sentinel", alarm.message, attempt_id=attempt.id, detail=alarm.detail
        )
    stops = [alarm for alarm in alarms if alarm.limit.action == "stop"]
    if not stops:
        return False
    evidence = {"sentinels": [alarm.detail for alarm in stops]}
    await attempts.end_attempt(session, attempt, EndReason.SENTINEL, stops[0].message, evidence)
    return True
