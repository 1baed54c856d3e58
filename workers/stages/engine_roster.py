"""Which rollout engines there are, what each has to do, and how often one may still fail. Calls no engine.

    starting ──answers, and holds the weights that the pool serves──> ready
        │ fails, or does not answer                                    │ dies, hangs, fails
        └───────────────────────────> retired <────────────────────────┘
                                         │ killed
                                         ├──> another member of its number: starting
                                         └──> gone, if it was to leave anyway

All methods may be called from any thread.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from threading import Condition

from service.contract.memory_sizes import MAX_NUM_SEQUENCES
from workers.actors.vllm_adapter import EngineFailed
from workers.config_error import ConfigError
from workers.placement import ActorDied
from workers.rollouts import EngineFacts
from workers.stages.remote_engine import Call, RemoteEngine

MOST_IN_PORTION = 64
"""Requests of a portion, unless a single group has more."""
_MOST_OUT = MAX_NUM_SEQUENCES + 2 * MOST_IN_PORTION
"""Requests that an engine is given at once where there are several: a little more than it runs at once. What would
only queue in it waits here, for the engine that has room first."""
_CAUSE_CHARACTERS = 400


class EnginesLost(EngineFailed):
    """Engines failed more often than they may be replaced."""

    def __init__(self, message: str, *, out_of_memory: bool) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


class MemberState(StrEnum):
    """Where one engine stands."""

    STARTING = "starting"
    READY = "ready"
    RETIRED = "retired"


@dataclass(eq=False, slots=True, kw_only=True)
class Member:
    """One engine of the pool; whoever replaces it is another member of the same number."""

    engine: RemoteEngine
    start: Call
    is_first: bool = False
    """Whether it is one of those with which the attempt began."""
    is_extra: bool = False
    """Whether its bundle was added on the way: it is given back when the engine fails."""
    since_s: float
    state: MemberState = MemberState.STARTING
    is_leaving: bool = False
    """Whether it gets nothing more and goes when it has nothing left to do."""
    num_portions: int = 0
    num_requests: int = 0
    """What it has been given and has not brought back."""
    num_tokens: int = 0
    """That these requests may come to at most."""
    last_sign_s: float = 0.0
    """When something last came back from it."""

    @property
    def number(self) -> int:
        """Of its bundle, from 0."""
        return self.engine.number

    @property
    def is_retired(self) -> bool:
        """Whether it has failed; what it was given is somebody else's now."""
        return self.state is MemberState.RETIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """The loss of an engine, until another one stands in its place."""

    number: int
    cause: str
    since_s: float
    num_portions: int
    num_requests: int
    num_starts: int
    """Replacements that were begun; all but the last failed before they took part."""


@dataclass(slots=True)
class _Budget:
    total: int
    causes: list[str] = field(default_factory=list)
    num_out_of_memory: int = 0

    def spend(self, cause: str, error: Exception) -> EnginesLost | None:
        self.causes.append(cause)
        self.num_out_of_memory += isinstance(error, ActorDied) and error.out_of_memory
        if len(self.causes) <= self.total:
            return None
        latest = "; ".join(f"({index}) {cause}" for index, cause in list(enumerate(self.causes, 1))[-4:])
        return EnginesLost(
            f"rollout engines failed {len(self.causes)} times, and an attempt replaces {self.total}: {latest}",
            out_of_memory=self.num_out_of_memory == len(self.causes),
        )


class Roster:
    """The pool's members by number."""

    def __init__(self, num_replacements: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._changed = Condition()
        self._members: dict[int, Member] = {}
        self._incidents: dict[int, Incident] = {}
        self._budget = _Budget(num_replacements)
        self._facts: EngineFacts | None = None
        self._failure: BaseException | None = None
        self._num_reissued = 0

    def check(self) -> None:
        """Raise what ended the pool, if something has."""
        if self._failure is not None:
            raise self._failure

    def fail(self, error: BaseException) -> None:
        """End the pool: whoever waits for it raises `error`. Only the first one counts."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    @property
    def has_failed(self) -> bool:
        """Whether the pool has ended."""
        return self._failure is not None

    @property
    def facts(self) -> EngineFacts | None:
        """What the engines have said of themselves, once one has; the slowest start."""
        return self._facts

    @property
    def num_replacements_left(self) -> int:
        """Further engines that may fail."""
        return self._budget.total - len(self._budget.causes)

    def wait(self, timeout_s: float) -> None:
        """Until something has changed, or the time is up."""
        with self._changed:
            self._changed.wait(timeout_s)

    def add(self, member: Member) -> None:
        """A member that starts, perhaps in the place of a retired one."""
        with self._changed:
            self._members[member.number] = member
            self._changed.notify_all()

    def remove(self, member: Member) -> None:
        """A member that is gone for good."""
        with self._changed:
            del self._members[member.number]
            self._changed.notify_all()

    def members(self, *states: MemberState) -> list[Member]:
        """Those in one of the states, or all, by number."""
        with self._changed:
            return [one for _, one in sorted(self._members.items()) if not states or one.state in states]

    def named(self, number: int) -> Member:
        """The member of a number. Raises KeyError."""
        with self._changed:
            return self._members[number]

    def meet(self, member: Member, facts: EngineFacts) -> None:
        """Note what an engine says of itself. Raises ConfigError if it differs from what another one has said."""
        with self._changed:
            known = self._facts or facts
            for name in ("vllm_version", "eos_token_ids"):
                if getattr(known, name) != getattr(facts, name):
                    raise ConfigError(
                        f"rollout engine {member.number} on {member.engine.host} has {name} {getattr(facts, name)}, "
                        f"another one {getattr(known, name)}: give all nodes the same model folder and vLLM"
                    )
            self._facts = replace(known, start_s=max(known.start_s, facts.start_s))

    def welcome(self, member: Member) -> None:
        """From now on it gets requests."""
        with self._changed:
            member.state, member.last_sign_s = MemberState.READY, self.clock()
            self._changed.notify_all()

    def close_incident(self, number: int) -> Incident | None:
        """The incident of a number, if there is one that nobody has closed yet."""
        with self._changed:
            return self._incidents.pop(number, None)

    @property
    def open_incidents(self) -> list[int]:
        """The numbers of those that nobody has closed yet."""
        with self._changed:
            return sorted(self._incidents)

    def take(self, num_requests: int, num_tokens: int) -> Member | None:
        """The member with the least to do, if one has room; the portion counts as its own from now on."""
        with self._changed:
            alone = len(self._members) == 1
            free = [
                one
                for one in self._members.values()
                if one.state is MemberState.READY
                and not one.is_leaving
                and (alone or not one.num_requests or one.num_requests + num_requests <= _MOST_OUT)
            ]
            if not free:
                return None
            chosen = min(free, key=lambda one: (one.num_requests, one.number))
            chosen.num_portions += 1
            chosen.num_requests += num_requests
            chosen.num_tokens += num_tokens
            return chosen

    def returned(self, member: Member, num_requests: int, num_tokens: int) -> None:
        """A portion is no longer with a member."""
        with self._changed:
            member.num_portions -= 1
            member.num_requests -= num_requests
            member.num_tokens -= num_tokens
            self._changed.notify_all()

    def lost(self, num_requests: int) -> None:
        """A portion must be asked again."""
        with self._changed:
            self._num_reissued += num_requests

    def heard(self, member: Member) -> None:
        """Something has come back from a member."""
        member.last_sign_s = self.clock()

    def retire(self, member: Member, error: Exception) -> None:
        """A member has failed and gets nothing more; whoever has portions with it takes them back.

        Does nothing if it is retired already. Ends the pool where no replacement is left. An added engine is not
        replaced.
        """
        host = "" if member.is_retired else member.engine.host  # asks Ray, so not while the others wait
        with self._changed:
            if member.is_retired or self.has_failed:
                return
            member.state = MemberState.RETIRED
            if not member.is_leaving:
                cause = f"engine {member.number} on {host}: {str(error)[:_CAUSE_CHARACTERS] or repr(error)}"
                self._note(member, cause)
                member.is_leaving = member.is_extra
                self._failure = None if member.is_extra else self._budget.spend(cause, error)
            self._changed.notify_all()

    def take_num_reissued(self) -> int:
        """Requests that had to be asked again, since the last call."""
        with self._changed:
            found, self._num_reissued = self._num_reissued, 0
            return found

    def _note(self, member: Member, cause: str) -> None:
        known = self._incidents.get(member.number)
        if known is not None:
            self._incidents[member.number] = replace(known, num_starts=known.num_starts + 1)
            return
        self._incidents[member.number] = Incident(
            number=member.number,
            cause=cause,
            since_s=self.clock(),
            num_portions=member.num_portions,
            num_requests=member.num_requests,
            num_starts=0 if member.is_extra else 1,
        )
