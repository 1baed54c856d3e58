"""What attempts hold and use, written down: at admission, when they grow or shrink, and when they have let go."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.scheduler.decision.facts import Policy
from service.scheduler.decision.resources import Bundle, Placement, Resources, total
from service.scheduler.decision.usage import decayed, entry_penalty, placement_rate, used
from service.storage.scheduling_tables import AttemptHolding, UsageRecord, UsageTotal
from service.storage.tables import Attempt, Experiment


async def hold(
    session: AsyncSession,
    attempt: Attempt,
    experiment: Experiment,
    placement: Placement,
    kind_of: Mapping[str, str],
    policy: Policy,
) -> None:
    """The attempt has been admitted and holds these bundles."""
    rate = placement_rate(placement, kind_of, policy)
    session.add(
        AttemptHolding(
            attempt_id=attempt.id,
            project_id=experiment.project_id,
            user_id=experiment.user_id,
            bundles=[bundle_json(bundle) for bundle in placement],
            rate=rate,
            penalty=entry_penalty(rate, float(experiment.spec["max_runtime_s"]), policy),
            charged_until=attempt.created_at,
        )
    )
    await session.flush()


async def set_bundles(
    session: AsyncSession,
    attempt: Attempt,
    bundles: list[dict[str, Any]],
    kind_of: Mapping[str, str],
    policy: Policy,
    now: datetime,
) -> None:
    """From now on it holds these bundles; what it used until now is charged at the old rate."""
    await charge(session, attempt, policy, now)
    holding = await session.get_one(AttemptHolding, attempt.id, populate_existing=True)
    placement = placement_from_json(bundles)
    whole = total(bundle.resources for bundle in placement)
    holding.bundles, holding.rate = bundles, placement_rate(placement, kind_of, policy)
    attempt.num_cpus, attempt.num_gpus = whole.num_cpus, whole.num_gpus
    await session.flush()


async def charge(session: AsyncSession, attempt: Attempt, policy: Policy, now: datetime) -> None:
    """Count what the attempt has really used since it was charged last, at most until its resources were seen free."""
    holding = await session.scalar(
        select(AttemptHolding)
        .where(AttemptHolding.attempt_id == attempt.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    released_at = await session.scalar(select(Attempt.released_at).where(Attempt.id == attempt.id))
    until = min(now, released_at or now)
    if holding is None or until <= holding.charged_until:
        return
    duration_s = (until - holding.charged_until).total_seconds()
    real = used(holding.rate, duration_s, policy.half_life_s)
    await _add_to_total(session, holding, real, policy, until)
    session.add(
        UsageRecord(
            project_id=holding.project_id,
            user_id=holding.user_id,
            attempt_id=attempt.id,
            started_at=holding.charged_until,
            ended_at=until,
            num_cpus=attempt.num_cpus,
            num_gpus=attempt.num_gpus,
            rate=holding.rate,
        )
    )
    holding.charged = decayed(holding.charged, duration_s, policy.half_life_s) + real
    holding.charged_until = until
    await session.flush()


def bundle_json(bundle: Bundle) -> dict[str, Any]:
    """As it is stored and told to the driver."""
    return {
        "role": bundle.role,
        "node": bundle.node,
        "num_cpus": bundle.resources.num_cpus,
        "num_gpus": bundle.resources.num_gpus,
    }


def placement_from_json(bundles: Iterable[Mapping[str, Any]]) -> Placement:
    """What `bundle_json` made."""
    return tuple(
        Bundle(
            role=bundle["role"],
            node=bundle["node"],
            resources=Resources.demand(bundle["num_cpus"], bundle["num_gpus"]),
        )
        for bundle in bundles
    )


async def _add_to_total(
    session: AsyncSession, holding: AttemptHolding, real: float, policy: Policy, now: datetime
) -> None:
    """`value` of an earlier moment is decayed to now before the new use is added."""
    row = {"project_id": holding.project_id, "user_id": holding.user_id}
    age_s = func.greatest(func.extract("epoch", now - UsageTotal.as_of), 0)
    statement = insert(UsageTotal).values(**row, value=real, as_of=now)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[UsageTotal.project_id, UsageTotal.user_id],
            set_={"value": UsageTotal.value * func.power(2.0, -age_s / policy.half_life_s) + real, "as_of": now},
        )
    )
