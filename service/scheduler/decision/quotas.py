"""What projects and users may hold at a time, and use within a window."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.contract.waiting import WaitCode
from service.scheduler.decision.facts import Account, QueueEntry, Quota, RunningAttempt
from service.scheduler.decision.outcome import Reason
from service.scheduler.decision.resources import NOTHING, Resources, total

_ROUNDING = 1e-9


@dataclass(slots=True, kw_only=True)
class _Held:
    """What one account holds, and will use at most until its attempts end."""

    num_running: int = 0
    resources: Resources = NOTHING
    gpu_seconds: float = 0.0


class Quotas:
    """Grows with each admission. An attempt counts until its resources were seen free."""

    def __init__(
        self,
        quotas: Mapping[Account, Quota],
        running: Iterable[RunningAttempt],
        gpu_seconds_in_window: Mapping[Account, float],
        now: float,
    ) -> None:
        self._quotas = quotas
        self._used = gpu_seconds_in_window
        self._held: dict[Account, _Held] = {}
        for attempt in running if quotas else ():
            resources = total(bundle.resources for bundle in attempt.placement)
            self._add(attempt.account, resources, max(attempt.ends_at - now, 0.0))

    def refusal(self, entry: QueueEntry) -> Reason | None:
        """Which limit the entry would break; None if it may start."""
        if not self._quotas:
            return None
        for account in (entry.account, (entry.project, "")):
            quota = self._quotas.get(account)
            if quota is not None and (why := self._broken(quota, account, entry)):
                whose = f"user {entry.user} in project {entry.project}" if account[1] else f"project {entry.project}"
                return Reason(code=WaitCode.QUOTA, text=f"{whose}: {why}")
        return None

    def admit(self, entry: QueueEntry) -> None:
        """The entry starts now."""
        if self._quotas:
            self._add(entry.account, entry.demand.total, entry.max_runtime_s)

    def _add(self, account: Account, resources: Resources, seconds: float) -> None:
        for scope in (account, (account[0], "")):
            held = self._held.setdefault(scope, _Held())
            held.num_running += 1
            held.resources += resources
            held.gpu_seconds += resources.num_gpus * seconds

    def _broken(self, quota: Quota, account: Account, entry: QueueEntry) -> str | None:
        held, asked = self._held.get(account, _Held()), entry.demand.total
        if quota.max_running is not None and held.num_running + 1 > quota.max_running:
            return f"{held.num_running} of {quota.max_running} running experiments allowed"
        for name, limit, has, needs in (
            ("GPUs", quota.max_gpus, held.resources.num_gpus, asked.num_gpus),
            ("CPUs", quota.max_cpus, held.resources.num_cpus, asked.num_cpus),
        ):
            if limit is not None and needs > 0 and has + needs > limit + _ROUNDING:
                return f"holds {has:g} of {limit:g} {name} allowed, needs {needs:g} more"
        return self._hours_broken(quota, account, held, entry)

    def _hours_broken(self, quota: Quota, account: Account, held: _Held, entry: QueueEntry) -> str | None:
        if quota.max_gpu_hours is None or entry.demand.total.gpus == 0:
            return None
        needs = entry.demand.total.num_gpus * entry.max_runtime_s / 3600
        bound = (self._used.get(account, 0.0) + held.gpu_seconds) / 3600
        if bound + needs <= quota.max_gpu_hours + _ROUNDING:
            return None
        days = quota.window_s / 86400
        # In words that do not change every second.
        return (
            f"of {quota.max_gpu_hours:g} GPU-hours in {days:g} days allowed about {bound:.0f} are used or promised to "
            f"those who run; needs up to {needs:.3g}"
        )
