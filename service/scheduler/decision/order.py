"""In which order experiments are considered: class, then fair share over projects and their users, then age.

Within a class the next one comes from the project with the least usage per share, there from the user with the least,
and of that user the oldest. Whoever is charged for his turn counts as having been admitted at once, so that the order
is the one in which experiments would start, and turns alternate between equals. A reservation that was made before
comes first in its class: what has been promised is not taken back by those who come later.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from service.scheduler.decision.facts import Account, Policy, QueueEntry, Shares
from service.scheduler.decision.resources import Demand
from service.scheduler.decision.usage import demand_rate, entry_penalty


class FairOrder:
    """Hands entries out one by one; `charge` says that the last one takes, or waits for, its part."""

    def __init__(
        self,
        queue: Sequence[QueueEntry],
        usage: Mapping[Account, float],
        shares: Shares,
        policy: Policy,
        promised: Collection[str] = (),
    ) -> None:
        self._shares = shares
        self._policy = policy
        self._promised = frozenset(promised)
        self._of_users = dict(usage)
        self._of_projects: dict[str, float] = {}
        for (project, _), value in usage.items():
            self._of_projects[project] = self._of_projects.get(project, 0.0) + value
        self._classes: dict[int, list[QueueEntry]] = {}
        for entry in queue:
            self._classes.setdefault(entry.priority_rank, []).append(entry)
        self._rates: dict[Demand, float] = {}

    def __iter__(self) -> Iterator[QueueEntry]:
        for rank in sorted(self._classes):
            entries = sorted(self._classes[rank], key=_age)
            promised = [entry for entry in entries if entry.id in self._promised]
            yield from promised
            yield from self._fairly([entry for entry in entries if entry.id not in self._promised])

    def charge(self, entry: QueueEntry) -> None:
        """Count the entry's penalty for its user and project, in the rest of this order."""
        rate = self._rates.get(entry.demand)
        if rate is None:
            rate = self._rates[entry.demand] = demand_rate(entry.demand, self._policy)
        penalty = entry_penalty(rate, entry.max_runtime_s, self._policy)
        self._of_users[entry.account] = self._of_users.get(entry.account, 0.0) + penalty
        self._of_projects[entry.project] = self._of_projects.get(entry.project, 0.0) + penalty

    def _fairly(self, entries: Sequence[QueueEntry]) -> Iterator[QueueEntry]:
        """Of one class, from old to young within each user."""
        waiting: dict[Account, deque[QueueEntry]] = {}
        for entry in entries:
            waiting.setdefault(entry.account, deque()).append(entry)
        users: dict[str, list[tuple[float, float, str]]] = {}
        for account, own in waiting.items():
            users.setdefault(account[0], []).append((self._user_level(account), own[0].queued_at, account[1]))
        for heap in users.values():
            heapify(heap)
        projects = [(self._project_level(name), heap[0][1], name) for name, heap in users.items()]
        heapify(projects)
        while projects:
            name = heappop(projects)[-1]
            heap = users[name]
            account = (name, heappop(heap)[-1])
            yield waiting[account].popleft()
            # Whoever took the entry may have charged it meanwhile.
            if own := waiting[account]:
                heappush(heap, (self._user_level(account), own[0].queued_at, account[1]))
            if heap:
                heappush(projects, (self._project_level(name), heap[0][1], name))

    def _user_level(self, account: Account) -> float:
        return self._of_users.get(account, 0.0) / self._shares.user(account)

    def _project_level(self, name: str) -> float:
        return self._of_projects.get(name, 0.0) / self._shares.project(name)


def _age(entry: QueueEntry) -> tuple[float, str]:
    return entry.queued_at, entry.id
