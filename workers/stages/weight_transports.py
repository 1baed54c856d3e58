"""The ways on which weights travel from the trainer to the engines, behind one protocol.

    shared memory, file    trainer ──> one file <── read by every engine
    object store           trainer ──> Ray's object store ──> a file on each machine <── read by its engines
    nccl                   trainer's GPU ──> engines' GPUs, see `nccl_transport`

Whatever the way: what was delivered last stays on a shelf, so that an engine can join while the trainer is at work.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from workers.placement import put
from workers.stages.engine_roster import Member
from workers.stages.remote_engine import Call
from workers.weight_sync import UpdateOrder, WeightFolder, WeightManifest, WeightSyncFailed

Tokens = tuple[int, ...]


class Written(Protocol):
    """A call at the trainer that is under way."""

    def result(self) -> WeightManifest:
        """Waits for it. Raises OSError, or what ends the run."""


class WeightsOwner(Protocol):
    """What a shelf asks of the trainer."""

    def begin_write_weights(self, path: str, *, with_digests: bool) -> Written:
        """As one file."""

    def begin_put_weights(self, *, with_digests: bool) -> tuple[Written, Any]:
        """As one object in Ray's store, of which the reference is there at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What is to be delivered."""

    version: int
    probe: tuple[Tokens, ...]
    with_digests: bool
    deadline_s: float
    """Of each of its parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A delivery on its way: each engine answers with its `UpdateReport`, or fails."""

    calls: Sequence[tuple[Member, Call]]
    gather_s: float
    """Of the time so far, what the trainer's ranks took to bring their parts together."""
    failures: Sequence[tuple[Member, Exception]] = ()
    """Engines of which it is known already that they will not have it."""


class Transport(Protocol):
    """One way. Deliveries follow each other; joining engines come between two of them."""

    def deliver(self, parcel: Parcel, members: Sequence[Member]) -> Delivery:
        """Take the trainer's present weights to all members at once. Raises WeightSyncFailed if it cannot begin."""

    def keep(self) -> None:
        """Called when the engines have taken a delivery: see to it that `hand_over` can follow. Does not wait."""

    def hand_over(self, member: Member) -> Call:
        """Take what was delivered last to an engine that joins. Raises WeightSyncFailed."""

    def trainer_replaced(self) -> None:
        """Another trainer sends from now on; connections to the one before are dead."""


class Shelf(Protocol):
    """Where one version of the weights lies for engines to take it."""

    def begin(self, parcel: Parcel) -> None:
        """Let the trainer put its present weights here, in the place of the version before; does not wait."""

    def settle(self) -> WeightManifest:
        """Wait until they are here. Raises WeightSyncFailed."""

    def take(self, member: Member) -> Call:
        """Let an engine take them."""


class ShelfTransport:
    """Every engine takes the weights from the shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def deliver(self, parcel: Parcel, members: Sequence[Member]) -> Delivery:
        """See `Transport`."""
        self._shelf.begin(parcel)
        manifest = self._shelf.settle()
        calls = [(member, self._shelf.take(member)) for member in members]
        return Delivery(calls=calls, gather_s=manifest.gather_s)

    def keep(self) -> None:
        """They stay where they are."""

    def trainer_replaced(self) -> None:
        """There is no connection: a shelf asks whoever is the trainer."""

    def hand_over(self, member: Member) -> Call:
        """See `Transport`."""
        self._shelf.settle()
        return self._shelf.take(member)


class FileShelf:
    """A file in a folder that engines see; the content of the file for those that do not."""

    def __init__(
        self, trainer: WeightsOwner, folder: WeightFolder, landing: str, sees_folder: Callable[[Member], bool]
    ) -> None:
        """`landing` names the folder on other machines in which the content becomes a file again.

        This process must see the folder if not all engines do.
        """
        self._trainer, self._folder, self._landing, self._sees = trainer, folder, landing, sees_folder
        self._parcel: Parcel | None = None
        self._written: Written | None = None
        self._elsewhere: tuple[UpdateOrder, Any] | None = None

    def begin(self, parcel: Parcel) -> None:
        """See `Shelf`. The file before goes first: two would take twice the memory."""
        if self._parcel is not None:
            self._folder.discard(self._folder.path(self._parcel.version))
        self._parcel, self._elsewhere = parcel, None
        path = self._folder.path(parcel.version)
        self._written = self._trainer.begin_write_weights(path, with_digests=parcel.with_digests)

    def settle(self) -> WeightManifest:
        """See `Shelf`."""
        assert self._written is not None, "nothing was put here"
        try:
            return self._written.result()
        except OSError as error:
            raise WeightSyncFailed(
                f"the trainer cannot write its weights into {self._folder.folder}: {error}; make room there, or choose "
                "another rl.weight_sync.transport"
            ) from error

    def take(self, member: Member) -> Call:
        """See `Shelf`."""
        if self._sees(member):
            return member.engine.begin_update(self._order())
        if self._elsewhere is None:
            # Once, however many machines ask for it.
            order = self._order()
            self._elsewhere = (_named(order), put(np.fromfile(order.path, dtype=np.uint8)))
        return member.engine.begin_update(*self._elsewhere)

    def _order(self) -> UpdateOrder:
        assert self._parcel is not None, "nothing was put here"
        return _order(self._parcel, self.settle(), self._folder.path(self._parcel.version), self._landing)


class StoreShelf:
    """One object in Ray's store, which each machine fetches once and makes a file of for its engines."""

    def __init__(self, trainer: WeightsOwner, landing: str) -> None:
        self._trainer, self._landing = trainer, landing
        self._lying: tuple[UpdateOrder, Any] | None = None
        self._begun: tuple[Parcel, Written, Any] | None = None

    def begin(self, parcel: Parcel) -> None:
        """See `Shelf`. The object before loses its reference first: two would take twice the memory."""
        self._lying = self._begun = None
        written, content = self._trainer.begin_put_weights(with_digests=parcel.with_digests)
        self._begun = (parcel, written, content)

    def settle(self) -> WeightManifest:
        """See `Shelf`."""
        assert self._begun is not None, "nothing was put here"
        parcel, written, content = self._begun
        manifest = written.result()
        if self._lying is None:
            self._lying = (_named(_order(parcel, manifest, "", self._landing)), content)
        return manifest

    def take(self, member: Member) -> Call:
        """See `Shelf`."""
        assert self._lying is not None, "settle comes first"
        return member.engine.begin_update(*self._lying)


def _order(parcel: Parcel, manifest: WeightManifest, path: str, landing: str) -> UpdateOrder:
    return UpdateOrder(
        version=parcel.version,
        manifest=manifest,
        path=path,
        landing=landing,
        probe=parcel.probe,
        deadline_s=parcel.deadline_s,
    )


def _named(order: UpdateOrder) -> UpdateOrder:
    """A version may come twice, with other weights, if a stage was taken up again from an earlier step."""
    return replace(order, path=f"policy-{order.version:08d}-{uuid4().hex}")
