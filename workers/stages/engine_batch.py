"""The requests of one generation: cut into portions of whole groups, handed out, and put together again."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from workers.actors.vllm_adapter import EngineFailed
from workers.rollouts import Completion, GenerationRequest
from workers.stages.engine_roster import Member
from workers.stages.remote_engine import Call

_MOST_LOSSES = 4
_NAMED_PROMPTS = 5


@dataclass(eq=False, slots=True, kw_only=True)
class Portion:
    """Requests that go to one engine together."""

    first: int
    """Place of the first among the batch's requests."""
    requests: list[GenerationRequest]
    num_losses: int = 0
    """Engines that failed while they had it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A portion that an engine works on."""

    portion: Portion
    member: Member
    call: Call
    num_tokens: int
    """That it may come to at most."""
    limit_s: float
    """When its answer must be there, by the pool's clock."""


class Batch:
    """Requests, and what has become of them."""

    def __init__(self, requests: list[GenerationRequest], most_in_portion: int) -> None:
        self.waiting = deque(cut(requests, most_in_portion))
        self.flights: list[Flight] = []
        self._found: list[Completion | None] = [None] * len(requests)

    @property
    def is_done(self) -> bool:
        """Whether each request has its completion."""
        return not self.waiting and not self.flights

    def land(self, flight: Flight, completions: list[Completion]) -> None:
        """Take an engine's answer."""
        portion = flight.portion
        if len(completions) != len(portion.requests):
            raise EngineFailed(f"{len(completions)} completions received for {len(portion.requests)} requests")
        self._found[portion.first : portion.first + len(completions)] = completions
        self.flights.remove(flight)

    def lose(self, flight: Flight) -> None:
        """Take back what a failed engine had. Raises EngineFailed if it was lost too often to be chance."""
        portion = flight.portion
        self.flights.remove(flight)
        self.waiting.appendleft(portion)
        portion.num_losses += 1
        if portion.num_losses > _MOST_LOSSES:
            uids = list(dict.fromkeys(request.prompt.uid for request in portion.requests))
            raise EngineFailed(
                f"{portion.num_losses} rollout engines failed while they had the same {len(portion.requests)} requests "
                f"(prompts {uids[:_NAMED_PROMPTS]}{' and others' if len(uids) > _NAMED_PROMPTS else ''}): if these "
                "are what no engine can take, the log of the engines says why"
            )

    def completions(self) -> list[Completion]:
        """In the order of the requests."""
        found = [completion for completion in self._found if completion is not None]
        assert len(found) == len(self._found), "asked before it was done"
        return found


def cut(requests: list[GenerationRequest], most: int) -> Iterator[Portion]:
    """Neighbours of one prompt stay together, since they share its keys and values; a portion has `most` at most,
    unless a single group has more."""
    portion = Portion(first=0, requests=[])
    for _, group in groupby(requests, key=lambda request: request.prompt.uid):
        members = list(group)
        if portion.requests and len(portion.requests) + len(members) > most:
            yield portion
            portion = Portion(first=portion.first + len(portion.requests), requests=[])
        portion.requests += members
    if portion.requests:
        yield portion
