"""EASY backfilling: whoever stands first and does not fit gets a reservation, and nobody admitted later delays it.

The reservation is the earliest moment at which all bundles fit if every running attempt takes the time that it asked
for; most end sooner, so it only ever moves forward.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from service.scheduler.decision.facts import QueueEntry, Window
from service.scheduler.decision.fit import by_node
from service.scheduler.decision.levels import Free
from service.scheduler.decision.outcome import Reservation
from service.scheduler.decision.resources import Placement
from service.scheduler.decision.room import Room, Tryout


@dataclass(slots=True)
class Release:
    """Resources that come back."""

    at: float
    amounts: dict[str, Free]
    """By node."""


class Releases:
    """All resources that are taken now, in the order in which they come back."""

    def __init__(self) -> None:
        self._releases: list[Release] = []
        self._of_attempts: dict[str, Release] = {}
        self._is_sorted = True

    def add(self, at: float, placement: Placement, attempt_id: str = "") -> None:
        """A placement is free again at `at` at the latest."""
        release = Release(at, by_node(placement))
        self._releases.append(release)
        if attempt_id:
            self._of_attempts[attempt_id] = release
        self._is_sorted = False

    def hasten(self, attempt_id: str, placement: Placement, at: float) -> None:
        """A part of what an attempt holds comes back sooner."""
        whole = self._of_attempts[attempt_id].amounts
        for node, (gpus, cpus) in by_node(placement).items():
            whole[node] = (whole[node][0] - gpus, whole[node][1] - cpus)
        self.add(at, placement)

    def in_order(self) -> Sequence[Release]:
        """The first to come back first."""
        if not self._is_sorted:
            self._releases.sort(key=lambda release: release.at)
            self._is_sorted = True
        return self._releases


@dataclass(frozen=True, slots=True)
class Planned:
    """A reservation that could be made."""

    reservation: Reservation
    future: "_Future"

    def make(self, room: Room) -> Reservation:
        """Make it: from now on nobody may be in its way."""
        self.future.go_past(self.reservation.at)
        room.reserve(self.reservation.at, self.reservation.placement, self.future.free)
        return self.reservation


def plan_reservation(
    entry: QueueEntry, room: Room, releases: Releases, windows: Iterable[Window], now: float
) -> Planned | None:
    """The earliest for the entry, on kinds of node without a reservation; None if it would not fit there for ever."""
    future = _Future(room.tryout(room.unreserved), releases.in_order())
    found = _earliest(future, entry)
    if found is None:
        return None
    steps, placement = found
    at = clear_of_windows(max(future.time(steps), now), entry.max_runtime_s, windows)
    return Planned(Reservation(id=entry.id, at=at, placement=placement), future)


def clear_of_windows(at: float, runtime_s: float, windows: Iterable[Window]) -> float:
    """The first moment from `at` on from which `runtime_s` seconds pass without a maintenance window."""
    for window in sorted(windows, key=lambda window: window.starts_at):
        if at < window.ends_at and at + runtime_s > window.starts_at:
            at = window.ends_at
    return at


class _Future:
    """What is free after the first so many releases; it may be wound forward and back."""

    def __init__(self, free: Tryout, releases: Sequence[Release]) -> None:
        self.free = free
        self.num_steps = len(releases)
        self._releases = releases
        self._done = 0

    def time(self, steps: int) -> float:
        """When so many releases have happened."""
        return self._releases[steps - 1].at if steps else -inf

    def go_to(self, steps: int) -> None:
        """Wind to the moment after so many releases."""
        while self._done < steps:
            self.free.give(self._releases[self._done].amounts)
            self._done += 1
        while self._done > steps:
            self._done -= 1
            self.free.give(self._releases[self._done].amounts, sign=-1)

    def go_past(self, moment: float) -> None:
        """Wind forward over all releases up to the moment."""
        while self._done < self.num_steps and self._releases[self._done].at <= moment:
            self.go_to(self._done + 1)


def _earliest(future: _Future, entry: QueueEntry) -> tuple[int, Placement] | None:
    """After how many releases the entry fits, and where: by halves, since what is free only grows."""
    low, high = 0, future.num_steps
    future.go_to(high)
    found = future.free.place(entry.demand)
    if found is None:
        return None
    while low < high:
        middle = (low + high) // 2
        future.go_to(middle)
        placement = future.free.place(entry.demand)
        if placement is None:
            low = middle + 1
        else:
            high, found = middle, placement
    future.go_to(high)
    return high, found
