"""One pass over the queue: read, decide, write down, claim. Nothing here talks to Ray.

one transaction    read everything, decide; reasons, places, wishes to stop or to resize
one for each       claim: the attempt's row, its bundles, what it can reuse
"""

import logging
import time
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts
from service.contract.status import EndReason, ExperimentStatus
from service.contract.waiting import WaitCode
from service.errors import NotAllowedNow
from service.queue import forecasts, reasons, snapshot
from service.queue.reasons import WaitingReason
from service.scheduler import ledger, wishes
from service.scheduler.adoption import adopt_stages
from service.scheduler.decision import Decisions, decide
from service.scheduler.decision.facts import Policy
from service.scheduler.decision.forecast import forecast
from service.scheduler.decision.outcome import Admission
from service.scheduler.lease import Lease, hold_lease
from service.scheduler.situation import Read, read_situation
from service.scheduler.stage_contents import StageContents
from service.storage.clock import database_now
from service.storage.database import Sessions
from service.storage.scheduling_tables import QueueSnapshot
from service.storage.tables import Experiment
from service.storage.transitions import move_experiment

logger = logging.getLogger(__name__)

DEFAULT_POLICY = Policy()
_FORECAST_EVERY = timedelta(seconds=10)
_SHORT_QUEUE = 200


async def run_admission(
    sessions: Sessions, lease: Lease, policy: Policy = DEFAULT_POLICY, contents: StageContents | None = None
) -> int:
    """Opens an attempt for every experiment whose turn it is; returns how many. Raises LeaseLost.

    Only the lease's holder adds to what is taken; others only give back. So between reading and claiming the decision
    can become too careful, never too bold.
    """
    await (contents or StageContents()).settle(sessions, lease)
    async with sessions.begin() as session:
        await hold_lease(session, lease)
        now = await database_now(session)
        read = await read_situation(session, now, policy)
        began = time.perf_counter()
        decisions = decide(read.situation)
        decided_s = time.perf_counter() - began
        await _write_down(session, read, decisions, now, decided_s)
    kind_of = {node.id: node.gpu_type for node in read.situation.cluster.nodes}
    claimed = [await _claim(sessions, lease, one, kind_of, policy) for one in decisions.admissions]
    return sum(claimed)


async def _write_down(session: AsyncSession, read: Read, decisions: Decisions, now: datetime, decided_s: float) -> None:
    await reasons.write_reasons(session, _changed_reasons(read, decisions))
    await _cancel_hopeless(session, read, decisions)
    await wishes.settle_returned(session, read, now)
    await wishes.ask_to_stop(session, read, decisions.preemptions, now)
    await wishes.ask_to_resize(session, read, decisions.resizes, now)
    last = await snapshot.read_snapshot(session)
    known = dict(zip(last.experiment_ids, last.starts, strict=False)) if last is not None else {}
    facts = _facts(read, decisions) | {"decided_s": decided_s}
    if last is not None and _is_fresh(last, now) and len(decisions.waiting) > _SHORT_QUEUE:
        starts = {name: known.get(name, inf) for name in decisions.waiting}
        facts["forecast_at"] = last.facts["forecast_at"]
    else:
        starts = forecast(read.situation, decisions)
        await forecasts.keep_first(session, {name: starts[name] for name in starts if known.get(name, inf) == inf}, now)
        facts["forecast_at"] = now.isoformat()
    await snapshot.write_snapshot(
        session, now=now, experiment_ids=list(starts), starts=list(starts.values()), facts=facts
    )


def _is_fresh(last: QueueSnapshot, now: datetime) -> bool:
    """Whether its forecast is young enough for a long queue; whoever is new has none until the next."""
    made_at = last.facts.get("forecast_at")
    return made_at is not None and now - datetime.fromisoformat(made_at) < _FORECAST_EVERY


async def _claim(
    sessions: Sessions, lease: Lease, admission: Admission, kind_of: dict[str, str], policy: Policy
) -> bool:
    try:
        async with sessions.begin() as session:
            await hold_lease(session, lease)
            experiment = await session.get_one(Experiment, admission.id)
            attempt = await attempts.open_attempt(session, experiment, await database_now(session))
            await ledger.hold(session, attempt, experiment, admission.placement, kind_of, policy)
            await adopt_stages(session, experiment, attempt)
            await forecasts.note_start(session, experiment.id, attempt.created_at)
    except NotAllowedNow:
        logger.info("experiment left the queue before its turn", extra={"experiment_id": admission.id})
        return False
    logger.info("experiment admitted", extra={"experiment_id": admission.id, "attempt_id": attempt.id})
    return True


async def _cancel_hopeless(session: AsyncSession, read: Read, decisions: Decisions) -> None:
    """Those that are to be cancelled when a dependency fails."""
    for name, reason in decisions.waiting.items():
        row = read.waiting[name]
        if reason.code is not WaitCode.DEPENDENCY_FAILED or row.on_failed_dependency != "cancel":
            continue
        try:
            # A savepoint: somebody may have cancelled it meanwhile.
            async with session.begin_nested():
                await move_experiment(
                    session,
                    name,
                    ExperimentStatus.CANCELLED,
                    message=reason.text,
                    reason=EndReason.DEPENDENCY_FAILED,
                    values={"waiting_reason": None, "not_before": None},
                )
        except NotAllowedNow:
            logger.info("experiment left the queue by itself", extra={"experiment_id": name})


def _changed_reasons(read: Read, decisions: Decisions) -> list[WaitingReason]:
    return [
        WaitingReason(experiment_id=name, code=reason.code.value, text=reason.text, waits_for=reason.behind)
        for name, reason in decisions.waiting.items()
        if (read.waiting[name].waiting_reason, read.waiting[name].wait_code) != (reason.text, reason.code.value)
    ]


def _facts(read: Read, decisions: Decisions) -> dict[str, Any]:
    """The terms of everybody's place, as the API shows them."""
    situation = read.situation
    policy = situation.policy
    return {
        "reservations": [
            {
                "id": one.id,
                "at": datetime.fromtimestamp(one.at, UTC).isoformat(),
                "bundles": [[b.role, b.node, b.resources.cpus, b.resources.gpus] for b in one.placement],
            }
            for one in decisions.reservations
        ],
        "usage": [[project, user, value] for (project, user), value in sorted(situation.usage.items())],
        "policy": {
            "half_life_s": policy.half_life_s,
            "gpu_weights": dict(policy.gpu_weights),
            "cpu_weight": policy.cpu_weight,
        },
    }
