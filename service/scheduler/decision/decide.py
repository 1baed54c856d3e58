"""One pass over the queue: who starts, who gets a reservation, who gives way, who may grow, and why the others wait."""

from collections import Counter
from math import inf

from service.contract.waiting import WaitCode
from service.scheduler.decision.backfill import Planned, Releases, clear_of_windows, plan_reservation
from service.scheduler.decision.eligibility import shown_time, why_not_eligible
from service.scheduler.decision.facts import QueueEntry, RunningAttempt, Situation
from service.scheduler.decision.fit import kinds_for
from service.scheduler.decision.growth import give_back, grow
from service.scheduler.decision.order import FairOrder
from service.scheduler.decision.outcome import Admission, Decisions, Preemption, Reason, Reservation, Resize
from service.scheduler.decision.preemption import drained, make_room
from service.scheduler.decision.quotas import Quotas
from service.scheduler.decision.resources import Demand, Placement
from service.scheduler.decision.room import Room
from service.scheduler.decision.words import needs, shortage


def decide(situation: Situation) -> Decisions:
    """Decides for every entry of the queue, in whatever order given.

    The result follows from the situation alone, and its `waiting` are in the order of the queue.
    """
    waiting: dict[str, Reason] = {}
    eligible: list[QueueEntry] = []
    kept_back: dict[str, Reason] = {}
    for entry in sorted(situation.queue, key=lambda entry: (entry.priority_rank, entry.queued_at, entry.id)):
        reason = why_not_eligible(entry, situation.pauses, situation.now)
        if reason is None:
            eligible.append(entry)
        else:
            kept_back[entry.id] = reason
    promised = [held.experiment_id for held in situation.reserved]
    order = FairOrder(eligible, situation.usage, situation.shares, situation.policy, promised)
    if situation.cluster.unknown_because:
        reason = Reason(code=WaitCode.CLUSTER_UNKNOWN, text=situation.cluster.unknown_because)
        for entry in order:
            order.charge(entry)
            waiting[entry.id] = reason
        return Decisions(waiting=waiting | kept_back)
    walk = _Walk(situation, order)
    for entry in order:
        if why := walk.consider(entry):
            waiting[entry.id] = why
    return walk.decisions(waiting | kept_back)


class _Walk:
    """What the pass has given out so far."""

    def __init__(self, situation: Situation, order: FairOrder) -> None:
        self._situation = situation
        self._now = situation.now
        self._order = order
        weights = situation.policy.gpu_weights
        self._room = Room(situation.cluster.nodes, weights)
        self._idle = Room(situation.cluster.nodes, weights)
        self._quotas = Quotas(situation.quotas, situation.running, situation.gpu_seconds_in_window, situation.now)
        self._groups = Counter(group for attempt in situation.running for group in attempt.groups)
        # What has ended already may be reused in a moment, but its stage's result is not there before it is released.
        self._stages = {attempt.stage_key: attempt.experiment_id for attempt in situation.running if attempt.stage_key}
        self._held = {held.experiment_id: held.placement for held in situation.reserved}
        self._releases = Releases()
        self._take_running()
        self._never: dict[Demand, Reason | None] = {}
        self._fails_from: dict[Demand, float] = {}
        """By demand, the earliest end for which no place was found: what ends later finds none either."""
        self._resource_reasons: dict[Demand, Reason] = {}
        self._admissions: list[Admission] = []
        self._reservations: list[Reservation] = []
        self._preemptions: list[Preemption] = drained(situation.running, situation.pauses)
        self._resizes: list[Resize] = []

    def consider(self, entry: QueueEntry) -> Reason | None:
        """Admit the entry, or say why it waits."""
        if (reason := self._why_not_now(entry)) is not None:
            return reason
        # From here on it takes, or waits for, its part.
        self._order.charge(entry)
        ends_at = self._now + entry.max_runtime_s
        placement = self._place(entry, ends_at)
        if placement is None:
            return self._block(entry)
        self._room.take(placement, ends_at)
        self._releases.add(ends_at, placement)
        self._quotas.admit(entry)
        self._groups.update(limit.group for limit in entry.limits)
        if entry.stage_key is not None:
            self._stages.setdefault(entry.stage_key, entry.id)
        self._admissions.append(Admission(id=entry.id, placement=placement))
        return None

    def decisions(self, waiting: dict[str, Reason]) -> Decisions:
        """The outcome, with what is left over lent to those who can use it."""
        busy = {preemption.attempt_id for preemption in self._preemptions} | {one.attempt_id for one in self._resizes}
        paused = any(pause.project is None for pause in self._situation.pauses)
        others = [attempt for attempt in self._situation.running if attempt.id not in busy]
        return Decisions(
            admissions=tuple(self._admissions),
            waiting=waiting,
            reservations=tuple(self._reservations),
            preemptions=tuple(self._preemptions),
            resizes=(*self._resizes, *give_back(others), *([] if paused else grow(others, self._room))),
        )

    def _take_running(self) -> None:
        known = self._room.kind_of
        for attempt in self._situation.running:
            pinned = tuple(bundle for bundle in attempt.placement if bundle.node in known)
            self._room.take(pinned, inf)
            if len(pinned) < len(attempt.placement):
                self._room.take_anywhere(tuple(bundle for bundle in attempt.placement if not bundle.node))
            self._add_releases(attempt)

    def _add_releases(self, attempt: RunningAttempt) -> None:
        soon = self._now + self._situation.policy.release_s
        ends_at = soon if attempt.is_ending or attempt.is_preempted else max(attempt.ends_at, soon)
        staying = list(attempt.placement)
        for bundle in attempt.returning:
            staying.remove(bundle)
        self._releases.add(ends_at, tuple(staying), attempt.id)
        if attempt.returning:
            self._releases.add(soon, attempt.returning)

    def _why_not_now(self, entry: QueueEntry) -> Reason | None:
        """What free resources would not change."""
        if entry.demand not in self._never:
            self._never[entry.demand] = self._too_large(entry.demand)
        if (too_large := self._never[entry.demand]) is not None:
            return too_large
        if entry.stage_key is not None and (other := self._stages.get(entry.stage_key)) is not None:
            text = f"{other} does the same training now; its result will be reused"
            return Reason(code=WaitCode.SAME_STAGE, text=text, behind=other)
        for limit in entry.limits:
            if self._groups[limit.group] >= limit.max_running:
                text = f"group {limit.group!r} runs {limit.max_running} of {limit.max_running} experiments at a time"
                return Reason(code=WaitCode.GROUP_LIMIT, text=text)
        if (refused := self._quotas.refusal(entry)) is not None:
            return refused
        if self._situation.windows:
            return self._maintenance(entry)
        return None

    def _too_large(self, demand: Demand) -> Reason | None:
        if self._idle.place(demand, inf) is not None:
            return None
        return Reason(code=WaitCode.TOO_LARGE, text=shortage(demand, self._situation.cluster.nodes))

    def _maintenance(self, entry: QueueEntry) -> Reason | None:
        clear_at = clear_of_windows(self._now, entry.max_runtime_s, self._situation.windows)
        if clear_at <= self._now:
            return None
        text = f"might still run in the maintenance window that ends at {shown_time(clear_at)}"
        return Reason(code=WaitCode.MAINTENANCE, text=text)

    def _place(self, entry: QueueEntry, ends_at: float) -> Placement | None:
        if (held := self._held.get(entry.id)) and self._room.holds(held, ends_at):
            return held
        if ends_at >= self._fails_from.get(entry.demand, inf):
            return None
        placement = self._room.place(entry.demand, ends_at)
        if placement is None:
            self._fails_from[entry.demand] = ends_at
        return placement

    def _block(self, entry: QueueEntry) -> Reason:
        """It waits for resources; the first on its kinds of node has them reserved."""
        if entry.demand not in self._resource_reasons:
            if (reserved := self._reserve(entry)) is not None:
                return reserved
            text = f"needs {needs(entry.demand)}; not enough is free, or kept for those ahead"
            # Kinds only ever become reserved: once there is nothing to reserve for this demand, there never is.
            self._resource_reasons[entry.demand] = Reason(code=WaitCode.RESOURCES, text=text)
        return self._resource_reasons[entry.demand]

    def _reserve(self, entry: QueueEntry) -> Reason | None:
        kinds = self._room.unreserved
        if not all(kinds_for(role, kinds) for role in entry.demand.roles):
            return None
        planned = self._plan(entry)
        if planned is None:
            return None
        if planned.reservation.at - self._now > self._situation.policy.preempt_patience_s and self._ask_for_room(entry):
            planned = self._plan(entry) or planned
        self._reservations.append(planned.make(self._room))
        text = f"needs {needs(entry.demand)}; what becomes free is kept for it"
        return Reason(code=WaitCode.RESERVED, text=text)

    def _plan(self, entry: QueueEntry) -> Planned | None:
        return plan_reservation(entry, self._room, self._releases, self._situation.windows, self._now)

    def _ask_for_room(self, entry: QueueEntry) -> bool:
        """Ask those who may be asked; says whether anybody was."""
        asked = {preemption.attempt_id for preemption in self._preemptions} | {one.attempt_id for one in self._resizes}
        others = {attempt.id: attempt for attempt in self._situation.running if attempt.id not in asked}
        free = self._room.tryout(self._room.unreserved)
        made = make_room(entry, others.values(), free, self._situation.policy, self._now)
        soon = self._now + self._situation.policy.release_s
        for preemption in made.preemptions:
            self._releases.hasten(preemption.attempt_id, others[preemption.attempt_id].placement, soon)
        for resize in made.resizes:
            attempt = others[resize.attempt_id]
            number = attempt.elastic.count - resize.count if attempt.elastic else 0
            self._releases.hasten(attempt.id, attempt.lent[-number:], soon)
        self._preemptions += made.preemptions
        self._resizes += made.resizes
        return bool(made.preemptions or made.resizes)
