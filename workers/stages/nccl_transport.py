"""Weights from the trainer's GPU into those of the engines, in one broadcast.

    engines present ──> same as in the group? ──no──> a new group: trainer rank 0, each engine's workers behind it
                              │ yes                        │
                              v                            v
                        trainer sends, engines take; each ends its update by itself
                              │ anything fails
                              v
                 the group is torn down and never used again, all its engines are replaced

A copy lies on a shelf, written while the engines generate again: what joins in between takes it from there, and is part
of the group from the next sync on.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import uuid4

from workers.actors.vllm_adapter import EngineFailed
from workers.stages.engine_roster import Member
from workers.stages.remote_engine import Call
from workers.stages.weight_transports import Delivery, Parcel, Shelf
from workers.weight_sync import SendReport

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """What this transport asks of the trainer."""

    def join_engines(self, engines: Sequence[Any], names: Sequence[str]) -> str | None:
        """See to it that the group is one with these engines' actors; returns why there is none, if so.

        By their names the trainer knows whether it is; if not, the group before is torn down.
        """

    def send_weights(self, *, with_digests: bool) -> SendReport:
        """To all engines of the group at once, which have begun an update then and have to end it."""


class NcclTransport:
    """`Transport` through one NCCL group."""

    def __init__(self, trainer: Sender, shelf: Shelf) -> None:
        self._trainer, self._shelf = trainer, shelf
        self._names: dict[Member, str] = {}
        """Of engines in a group; one that replaces another has a name of its own."""
        self._parcel: Parcel | None = None

    def deliver(self, parcel: Parcel, members: Sequence[Member]) -> Delivery:
        """See `Transport`."""
        self._parcel = parcel
        if not members:
            return Delivery(calls=(), gather_s=0.0)
        failure, gather_s = self._join(members), 0.0
        if failure is None:
            report = self._trainer.send_weights(with_digests=parcel.with_digests)
            failure, gather_s = report.failure, report.gather_s
        if failure is not None:
            return self._given_up(failure, members)
        calls = [(member, member.engine.begin_end_update(parcel.version, parcel.probe)) for member in members]
        return Delivery(calls=calls, gather_s=gather_s)

    def keep(self) -> None:
        """See `Transport`."""
        if self._parcel is not None:
            self._shelf.begin(self._parcel)

    def trainer_replaced(self) -> None:
        """See `Transport`: the new one knows of no group, so the next delivery makes one."""

    def hand_over(self, member: Member) -> Call:
        """See `Transport`."""
        self._shelf.settle()
        return self._shelf.take(member)

    def _join(self, members: Sequence[Member]) -> str | None:
        # Asked each time: the trainer may be another one than at the last, and know of no group.
        self._names = {member: self._names.get(member) or uuid4().hex for member in members}
        return self._trainer.join_engines([member.engine.handle for member in members], [*self._names.values()])

    def _given_up(self, failure: str, members: Sequence[Member]) -> Delivery:
        """Whoever takes part in a collective that fails may hang in it for ever, so nobody can be spared."""
        logger.error("transfer group failed", extra={"num_engines": len(members), "why": failure})
        error = EngineFailed(f"the NCCL group of the weight sync failed: {failure}")
        return Delivery(calls=(), gather_s=0.0, failures=[(member, error) for member in members])
