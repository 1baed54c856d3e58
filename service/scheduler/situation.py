"""From tables to the facts of a decision. Everything is read in one transaction; nothing is decided here."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.queue import reading, snapshot
from service.queue.reading import HoldingRow, WaitingRow
from service.scheduler.capacity import read_cluster
from service.scheduler.decision.facts import (
    UNBLOCKED,
    Account,
    Blockers,
    Dependency,
    GroupLimit,
    HeldReservation,
    Pause,
    Policy,
    QueueEntry,
    Quota,
    RunningAttempt,
    Shares,
    Situation,
    Window,
)
from service.scheduler.decision.resources import Bundle, Demand, Placement, Resources, RoleDemand
from service.scheduler.decision.usage import decayed, placement_rate, used
from service.scheduler.ledger import placement_from_json
from service.settings import SchedulerSettings
from service.storage import scheduling_tables as tables
from service.storage.quotas import WHOLE_PROJECT
from service.storage.tables import Project, User


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read: the facts, and the rows behind those who wait."""

    situation: Situation
    waiting: Mapping[str, WaitingRow]
    holding: Mapping[str, HoldingRow]
    """By attempt."""


@dataclass(frozen=True, slots=True)
class _Names:
    """People and projects by their ids: the decision's words are read by people."""

    projects: Mapping[str, str]
    users: Mapping[str, str]

    def account(self, row: Any) -> Account:
        return self.projects[row.project_id], self.users.get(row.user_id, "")


def policy_of(settings: SchedulerSettings) -> Policy:
    """As the operator has set it."""
    return Policy(
        half_life_s=settings.usage_half_life_s,
        gpu_weights=settings.gpu_weights,
        cpu_weight=settings.cpu_weight,
        preempt_exempt_s=settings.preempt_exempt_s,
        preempt_patience_s=settings.preempt_patience_s,
    )


async def read_situation(session: AsyncSession, now: datetime, policy: Policy) -> Read:
    """Everything at this moment."""
    names = _Names(
        {row.id: row.name for row in await session.execute(select(Project.id, Project.name))},
        {row.id: row.name for row in await session.execute(select(User.id, User.name))},
    )
    cluster = await read_cluster(session, now)
    waiting, holding = await reading.waiting_rows(session), await reading.holding_rows(session)
    keys = await reading.sft_keys(session)
    kind_of = {node.id: node.gpu_type for node in cluster.nodes}
    moment = now.timestamp()
    rates = {row.id: _rate_of(row, kind_of, policy) for row in holding}
    quotas = [(row, names.account(row)) for row in await session.scalars(select(tables.Quota))]
    situation = Situation(
        now=moment,
        queue=await _queue(session, waiting, holding, names, keys),
        running=[_running(row, names, keys) for row in holding],
        cluster=cluster,
        usage=await _usage(session, holding, rates, names, policy, moment),
        shares=Shares(
            of_projects={account[0]: row.shares for row, account in quotas if row.user_id == WHOLE_PROJECT},
            of_users={account: row.shares for row, account in quotas if row.user_id != WHOLE_PROJECT},
        ),
        quotas={account: _quota(row) for row, account in quotas},
        gpu_seconds_in_window=await _in_windows(session, quotas, holding, now),
        pauses=await _pauses(session, names),
        windows=[
            Window(starts_at=row.starts_at.timestamp(), ends_at=row.ends_at.timestamp(), reason=row.reason)
            for row in await session.scalars(
                select(tables.MaintenanceWindow).where(tables.MaintenanceWindow.ends_at > now)
            )
        ],
        reserved=await _reserved(session),
        policy=policy,
    )
    return Read(
        situation=situation,
        waiting={row.id: row for row in waiting},
        holding={row.id: row for row in holding},
    )


async def _queue(
    session: AsyncSession,
    waiting: Sequence[WaitingRow],
    holding: Sequence[HoldingRow],
    names: _Names,
    keys: Mapping[str, str],
) -> list[QueueEntry]:
    demands: dict[str, Demand] = {}
    holders = {row.experiment_id: row.number for row in holding}
    wanted = {name for row in waiting for name in row.after_ids}
    statuses = await reading.statuses_of(session, sorted(wanted))
    return [_entry(row, names, demands, holders, statuses, keys) for row in waiting]


def _entry(
    row: WaitingRow,
    names: _Names,
    demands: dict[str, Demand],
    holders: Mapping[str, int],
    statuses: Mapping[str, str],
    keys: Mapping[str, str],
) -> QueueEntry:
    project, user = names.account(row)
    return QueueEntry(
        id=row.id,
        project=project,
        user=user,
        priority_rank=row.priority_rank,
        queued_at=row.queued_at.timestamp(),
        demand=_demand(row.roles_text, demands),
        max_runtime_s=row.max_runtime_s,
        blockers=_blockers(row, holders, statuses),
        limits=_limits(row.limits_text, project),
        stage_key=keys.get(row.id) if row.reuse else None,
    )


def _blockers(row: WaitingRow, holders: Mapping[str, int], statuses: Mapping[str, str]) -> Blockers:
    any_end = row.on_failed_dependency == "run"
    ended = ("succeeded", "failed", "cancelled") if any_end else ("succeeded",)
    open_ones = tuple(
        Dependency(id=name, status=statuses.get(name, "unknown"))
        for name in row.after_ids
        if statuses.get(name, "unknown") not in ended
    )
    pending = row.content_state == "pending"
    if not (row.held_by or row.not_before or row.start_not_before or open_ones or pending or row.id in holders):
        return UNBLOCKED
    reason = f": {row.held_reason}" if row.held_reason else ""
    return Blockers(
        held=f"held by {row.held_by}{reason}" if row.held_by else None,
        not_before=row.start_not_before.timestamp() if row.start_not_before else None,
        back_off_until=row.not_before.timestamp() if row.not_before else None,
        releasing=holders.get(row.id),
        dependencies=open_ones,
        any_end_will_do=any_end,
        unknown_content="its model and data are being digested, to see whether a stage can be reused"
        if pending
        else None,
    )


def _limits(text: str, project: str) -> tuple[GroupLimit, ...]:
    """Groups are those of the project."""
    if text == "[]":
        return ()
    return tuple(
        GroupLimit(group=f"{project}/{one['group']}", max_running=one["max_running"]) for one in json.loads(text)
    )


def _demand(roles_text: str, demands: dict[str, Demand]) -> Demand:
    """One object for all that ask for the same."""
    if roles_text not in demands:
        demands[roles_text] = Demand(roles=tuple(role_demand(role) for role in json.loads(roles_text)))
    return demands[roles_text]


def role_demand(role: Mapping[str, Any]) -> RoleDemand:
    """As it stands in the queue's row."""
    return RoleDemand(
        role=role["role"],
        bundle=Resources.demand(role["num_cpus"], role["num_gpus"]),
        count=role["count"],
        max_count=role["max_count"],
        gpu_types=tuple(role["gpu_types"]),
    )


def placement_of(row: HoldingRow) -> Placement:
    """What the attempt holds; of an attempt of before the ledger knew nodes, only the sum is known."""
    if row.bundles is None:
        return (Bundle(role="attempt", node="", resources=Resources.demand(row.num_cpus, row.num_gpus)),)
    return placement_from_json(row.bundles)


def _running(row: HoldingRow, names: _Names, keys: Mapping[str, str]) -> RunningAttempt:
    project, user = names.account(row)
    placement = placement_of(row)
    rollout = next((role_demand(role) for role in row.roles if role["role"] == "rollout"), None)
    elastic = rollout is not None and rollout.num_extra > 0 and row.is_running and row.bundles is not None
    leaving = [bundle for bundle in row.bundles or () if bundle.get("state") in ("wanted_back", "gone")]
    return RunningAttempt(
        id=row.id,
        experiment_id=row.experiment_id,
        project=project,
        user=user,
        priority_rank=row.priority_rank,
        placement=placement,
        started_at=row.since.timestamp(),
        ends_at=row.since.timestamp() + row.max_runtime_s,
        is_ending=row.is_over or row.is_cancelling,
        is_preempted=row.preempt_requested_at is not None,
        preemptible=row.preemptible,
        elastic=_with_count(rollout, sum(bundle.role == "rollout" for bundle in placement))
        if rollout is not None and elastic
        else None,
        num_least=rollout.count if rollout is not None else 0,
        has_use_for_more=row.stage is not None and row.stage != "sft",
        returning=placement_from_json(leaving),
        groups=tuple(f"{project}/{one['group']}" for one in row.limits),
        stage_key=None if row.is_over else keys.get(row.experiment_id),
    )


def _with_count(role: RoleDemand, count: int) -> RoleDemand:
    return RoleDemand(
        role=role.role, bundle=role.bundle, count=count, max_count=role.max_count, gpu_types=role.gpu_types
    )


def _rate_of(row: HoldingRow, kind_of: Mapping[str, str], policy: Policy) -> float:
    return float(row.rate) if row.rate is not None else placement_rate(placement_of(row), kind_of, policy)


async def _usage(
    session: AsyncSession,
    holding: Iterable[HoldingRow],
    rates: Mapping[str, float],
    names: _Names,
    policy: Policy,
    now: float,
) -> dict[Account, float]:
    """What is over, decayed; and of each attempt that holds resources its penalty, or its real use if that is more."""
    usage: dict[Account, float] = {}
    for total in await session.scalars(select(tables.UsageTotal)):
        usage[names.account(total)] = decayed(total.value, now - total.as_of.timestamp(), policy.half_life_s)
    for row in holding:
        since = (row.charged_until or row.created_at).timestamp()
        real = used(rates[row.id], now - since, policy.half_life_s)
        promised = (row.penalty or 0.0) - (row.charged or 0.0)
        account = names.account(row)
        usage[account] = usage.get(account, 0.0) + max(real, promised)
    return usage


def _quota(row: tables.Quota) -> Quota:
    return Quota(
        max_running=row.max_running,
        max_cpus=row.max_cpus,
        max_gpus=row.max_gpus,
        max_gpu_hours=row.max_gpu_hours,
        window_s=row.window_days * 86400.0,
    )


async def _in_windows(
    session: AsyncSession,
    quotas: Iterable[tuple[tables.Quota, Account]],
    holding: Sequence[HoldingRow],
    now: datetime,
) -> dict[Account, float]:
    """GPU-seconds within each quota's window, of attempts that are over and of those that hold resources now."""
    found: dict[Account, float] = {}
    for quota, account in quotas:
        if quota.max_gpu_hours is None:
            continue
        begin = now - timedelta(days=quota.window_days)
        record = tables.UsageRecord
        in_window = func.extract("epoch", record.ended_at - func.greatest(record.started_at, begin))
        mine = [record.project_id == quota.project_id, record.ended_at > begin]
        if quota.user_id != WHOLE_PROJECT:
            mine.append(record.user_id == quota.user_id)
        over = await session.scalar(select(func.coalesce(func.sum(in_window * record.num_gpus), 0.0)).where(*mine))
        live = sum(
            row.num_gpus * (now - max(row.charged_until or row.created_at, begin)).total_seconds()
            for row in holding
            if row.project_id == quota.project_id and quota.user_id in (WHOLE_PROJECT, row.user_id)
        )
        found[account] = float(over or 0.0) + live
    return found


async def _pauses(session: AsyncSession, names: _Names) -> list[Pause]:
    return [
        Pause(
            project=names.projects.get(row.scope) if row.scope else None,
            reason=f"{row.reason} ({row.by_user})" if row.reason else f"by {row.by_user}",
            drains=row.drains,
        )
        for row in await session.scalars(select(tables.QueuePause))
    ]


async def _reserved(session: AsyncSession) -> list[HeldReservation]:
    seen = await snapshot.read_snapshot(session)
    return [
        HeldReservation(
            experiment_id=one["id"],
            placement=tuple(
                Bundle(role=role, node=node, resources=Resources(cpus=cpus, gpus=gpus))
                for role, node, cpus, gpus in one["bundles"]
            ),
        )
        for one in (seen.facts.get("reservations", []) if seen else [])
    ]
