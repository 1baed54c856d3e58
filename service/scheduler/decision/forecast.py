"""When those who wait will start at the latest, if everybody who runs or starts takes the time that he asked for.

A list schedule on sums: each experiment in the order of the queue starts on the kind of node that has room for it
first, and not before the one ahead of it there. Nodes are not looked at one by one, nobody is backfilled and nobody new
comes: the first makes forecasts early, the others late. How far they are off is measured (`start_forecasts`), not
guessed.
"""

from heapq import heapify, heappop, heappush
from math import inf

from service.contract.waiting import WaitCode
from service.scheduler.decision.backfill import clear_of_windows
from service.scheduler.decision.facts import QueueEntry, Situation
from service.scheduler.decision.fit import kinds_for
from service.scheduler.decision.outcome import Decisions
from service.scheduler.decision.resources import Placement

_TIMED = frozenset(
    {WaitCode.RESERVED, WaitCode.RESOURCES, WaitCode.MAINTENANCE, WaitCode.NOT_BEFORE, WaitCode.BACK_OFF}
)
"""Reasons that only time and resources can end; nobody knows when the others do."""
_IN_LINE = frozenset({WaitCode.RESERVED, WaitCode.RESOURCES})
"""Whoever waits for anything else keeps nobody behind him waiting."""


def forecast(situation: Situation, decisions: Decisions) -> dict[str, float]:
    """By experiment that waits, in the queue's order: its start in seconds since the epoch, infinity if unknown."""
    kinds = {node.kind: _Kind() for node in situation.cluster.nodes}
    kind_of = {node.id: node.kind for node in situation.cluster.nodes}
    for node in situation.cluster.nodes:
        kinds[node.kind].give(node.total.gpus, node.total.cpus)
    _take_present(situation, decisions, kinds, kind_of)
    order = sorted(kinds, key=lambda name: (name != "", situation.policy.gpu_weights.get(name, 1.0), name))
    entries = {entry.id: entry for entry in situation.queue}
    promised = {reservation.id: reservation.at for reservation in decisions.reservations}
    starts: dict[str, float] = {}
    for name, reason in decisions.waiting.items():
        entry = entries[name]
        if reason.code not in _TIMED:
            starts[name] = inf
            continue
        found = _start(entry, order, kinds, situation, in_line=reason.code in _IN_LINE)
        starts[name] = promised.get(name, found)
    return starts


class _Kind:
    """The nodes of one kind, in sum, at the moment up to which the schedule has been made."""

    def __init__(self) -> None:
        self.gpus = 0
        self.cpus = 0
        self.now = -inf
        self._ends: list[tuple[float, int, int]] = []

    def give(self, gpus: int, cpus: int) -> None:
        self.gpus += gpus
        self.cpus += cpus

    def take(self, gpus: int, cpus: int, until: float) -> None:
        self.give(-gpus, -cpus)
        heappush(self._ends, (until, gpus, cpus))

    def first_fit(self, gpus: int, cpus: int) -> float:
        """From when on so much is free, without anything being given back for good."""
        have_gpus, have_cpus, at = self.gpus, self.cpus, self.now
        if have_gpus >= gpus and have_cpus >= cpus:
            return at
        ends = self._ends.copy()
        heapify(ends)
        while ends and (have_gpus < gpus or have_cpus < cpus):
            at, more_gpus, more_cpus = heappop(ends)
            have_gpus, have_cpus = have_gpus + more_gpus, have_cpus + more_cpus
        return at if have_gpus >= gpus and have_cpus >= cpus else inf

    def go_to(self, moment: float) -> None:
        """What ends until then is free."""
        while self._ends and self._ends[0][0] <= moment:
            _, gpus, cpus = heappop(self._ends)
            self.give(gpus, cpus)
        self.now = max(self.now, moment)


def _take_present(situation: Situation, decisions: Decisions, kinds: dict[str, _Kind], kind_of: dict[str, str]) -> None:
    soon = situation.now + situation.policy.release_s
    runtime = {entry.id: entry.max_runtime_s for entry in situation.queue}
    asked = {preemption.attempt_id for preemption in decisions.preemptions}

    def take(placement: Placement, until: float) -> None:
        for bundle in placement:
            if bundle.node in kind_of:
                kinds[kind_of[bundle.node]].take(bundle.resources.gpus, bundle.resources.cpus, until)

    for attempt in situation.running:
        ends_soon = attempt.is_ending or attempt.is_preempted or attempt.id in asked
        take(attempt.placement, soon if ends_soon else max(attempt.ends_at, soon))
    for admission in decisions.admissions:
        take(admission.placement, situation.now + runtime[admission.id])
    for kind in kinds.values():
        kind.go_to(situation.now)


def _start(
    entry: QueueEntry, order: list[str], kinds: dict[str, _Kind], situation: Situation, *, in_line: bool
) -> float:
    """Of one entry, which takes its place in the schedule if it stands in line."""
    whole = entry.demand.total
    allowed = [set(kinds_for(role, order)) for role in entry.demand.roles]
    shared = [name for name in order if all(name in kinds_ for kinds_ in allowed)]
    # Roles on different kinds of node: the largest role's kind decides.
    candidates = shared or kinds_for(max(entry.demand.roles, key=lambda role: role.bundle.gpus), order)
    if not candidates:
        return inf
    best = min(candidates, key=lambda name: kinds[name].first_fit(whole.gpus, whole.cpus))
    at = kinds[best].first_fit(whole.gpus, whole.cpus)
    if at == inf:
        return inf
    blockers = entry.blockers
    at = max(at, blockers.not_before or at, blockers.back_off_until or at)
    at = clear_of_windows(at, entry.max_runtime_s, situation.windows)
    if in_line:
        kinds[best].go_to(at)
        kinds[best].take(whole.gpus, whole.cpus, at + entry.max_runtime_s)
    return at
