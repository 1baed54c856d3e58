"""The engines of one transfer group as vLLM's trainer side sees them.

The group is one for all engines: the trainer's first rank is 0, the workers of the first engine come next, then those
of the second. vLLM's own client tells every engine the same offset, so that two of them would claim the same ranks, and
waits for ever for one that hangs. This one gives each engine its own and every call a deadline.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

from workers.placement import Role, wait_for_all

Payload = Mapping[str, Any]


class Engines(Protocol):
    """Several rollout engines that are asked at once."""

    num_workers: Sequence[int]
    """Of each engine, in the order in which they are asked."""

    def ask(self, method: str, arguments: Sequence[Mapping[str, Any]], *, deadline_s: float) -> None:
        """Call a method of `RolloutEngine` on each, with its own arguments; raises as soon as one fails."""


class RayEngines:
    """`Engines` as Ray actors."""

    def __init__(self, actors: Sequence[Any], num_workers: Sequence[int]) -> None:
        assert len(actors) == len(num_workers)
        self._actors = actors
        self.num_workers = num_workers

    def ask(self, method: str, arguments: Sequence[Mapping[str, Any]], *, deadline_s: float) -> None:
        """See `Engines`. Raises ActorDied with the engine's place as its rank, DeadlineExceeded, or what one raised."""
        refs = [getattr(actor, method).remote(**own) for actor, own in zip(self._actors, arguments, strict=True)]
        what = f"{method} on {len(refs)} rollout engines"
        wait_for_all(refs, what=what, role=Role.ROLLOUT, deadline_s=deadline_s, check=_go_on)


class EngineGroupClient:
    """vLLM's `VLLMWeightSyncClient`, for one group."""

    def __init__(self, engines: Engines, deadline_s: float, digests: Callable[[], dict[str, str] | None]) -> None:
        """`digests` gives those of the tensors that have been sent, if they are to be compared."""
        self._engines, self._deadline_s, self._digests = engines, deadline_s, digests
        self.failure: BaseException | None = None
        """The first of its calls that failed. vLLM may be waiting for that engine in a collective and not see it."""

    @property
    def world_size(self) -> int:
        """Ranks of the group."""
        return 1 + sum(self._engines.num_workers)

    def init_weight_transfer_engine(self, init_info: Payload) -> None:
        """Let every engine join under ranks of its own; returns when all have met."""
        offsets = rank_offsets(self._engines.num_workers)
        self._ask(
            "join_transfer_group",
            [{"init_info": {**init_info, "rank_offset": offset}, "deadline_s": self._deadline_s} for offset in offsets],
        )

    def shutdown_weight_transfer_engine(self) -> None:
        """Engines leave a group when they join the next one, or end."""

    def start_weight_update(self) -> None:
        """Freeze all engines and make them ready for weights."""
        self._ask_all("begin_update", deadline_s=self._deadline_s)

    def update_weights(self, update_info: Payload) -> None:
        """Let all engines receive; returns when they have, so the trainer must be sending meanwhile."""
        wanted = self._digests() is not None
        self._ask_all("receive_weights", payload={**update_info, "with_digests": wanted})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Have the digests compared. The rest of an update's end is the driver's, who has the probe."""
        if (digests := self._digests()) is not None:
            self._ask_all("receive_weights", payload={"digests": digests})

    def _ask_all(self, method: str, **arguments: Any) -> None:
        self._ask(method, [arguments] * len(self._engines.num_workers))

    def _ask(self, method: str, arguments: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._engines.ask(method, arguments, deadline_s=self._deadline_s)
        except BaseException as error:
            self.failure = self.failure or error
            raise


def rank_offsets(num_workers: Sequence[int]) -> list[int]:
    """The rank of each engine's first worker: 1 for the trainer, and the workers of the engines before it."""
    return list(accumulate(num_workers, initial=1))[:-1]


def _go_on() -> None:
    """The check of a wait that nothing but its deadline may end."""
