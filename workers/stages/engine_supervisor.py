"""Keeps the pool's engines alive: starts them, asks the silent ones for a token, replaces those that fail.

One thread looks after all of them, twice a second, and never waits for an engine but while a new one takes its weights:

    starting    has it answered? then it joins: checked against the others, brought to the weights that the pool serves
    ready       nothing came back for a while? then it has to generate one token within a deadline
    retired     vLLM's processes are ended, then the actor's; another one starts in the same bundle

Joining and a running weight sync exclude each other, so no engine misses an update; nor is an engine judged during one.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from workers.actors.vllm_adapter import EngineFailed
from workers.config_error import ConfigError
from workers.placement import ActorDied, Check, DeadlineExceeded, Role
from workers.stages.engine_roster import Member, MemberState, Roster
from workers.stages.remote_engine import ANSWER_S, ENGINE_START_S, Call, RemoteEngine
from workers.stages.roles import Reports
from workers.weight_sync import WeightSyncFailed

logger = logging.getLogger(__name__)

_STOP_S = 10.0

OnJoin = Callable[[Member], None]
"""Brings an engine that has just started to the weights that the pool serves; raises if it could not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTimes:
    """Seconds."""

    poll_s: float = 0.5
    """How long a wait may go on before it is looked whether anything else has happened."""
    quiet_s: float = 10.0
    """An engine from which nothing came back for so long is asked for a token."""
    token_s: float = 120.0
    """How long any token may take. One forward pass over a full batch of prompts may take most of it on a CPU."""
    answer_s: float = 10.0
    """How much longer the answer may take to arrive."""
    clear_s: float = 5.0
    """What a failed engine gets to end vLLM's processes itself."""


USUAL_TIMES = PoolTimes()


class Host(Protocol):
    """Where engines come from."""

    num_engines: int

    def spawn(self, number: int, check: Check) -> RemoteEngine:
        """Another actor in the bundle of an engine."""

    def add(self, check: Check, node: str = "") -> int:
        """A further bundle, on the node of this id; its number."""

    def give_back(self, number: int) -> None:
        """A bundle that was added."""

    def wait_any(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        """Those that have ended, once one has or the time is up."""


@dataclass(slots=True, kw_only=True)
class _Ping:
    call: Call
    since_s: float


@dataclass(slots=True, kw_only=True)
class _Clearing:
    call: Call
    since_s: float
    is_killed: bool = False


class Supervisor:
    """The thread, and what it remembers."""

    def __init__(
        self, host: Host, roster: Roster, reports: Reports, times: PoolTimes, check: Callable[[], None]
    ) -> None:
        """`check` is called while a new engine takes its weights."""
        self.on_join: OnJoin = lambda member: None
        self.membership = threading.RLock()
        """Held while an engine joins; whoever holds it sees the same engines until it is let go."""
        self._host, self._roster, self._reports, self._times, self._check = host, roster, reports, times, check
        self._pings: dict[Member, _Ping] = {}
        self._clearing: dict[Member, _Clearing] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-supervisor", daemon=True)

    def begin(self) -> None:
        """Start all engines and look after them from now on; returns at once."""
        for number in range(self._host.num_engines):
            self.start_engine(number, is_first=True)
        self._thread.start()

    def start_engine(self, number: int, *, is_first: bool = False) -> None:
        """Start an engine in its bundle; it joins when it answers."""
        engine = self._host.spawn(number, self._check)
        self._roster.add(
            Member(
                engine=engine,
                start=engine.begin_start(),
                is_first=is_first,
                is_extra=number >= self._host.num_engines,
                since_s=self._roster.clock(),
            )
        )

    def stop(self) -> None:
        """End the thread, and tell of engines that have no successor yet; all stay as they are."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)
        for number in self._roster.open_incidents:
            self._close_incident(number, "engine_lost", "was lost and not replaced before the end")

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._times.poll_s) and not self._roster.has_failed:
                self._tick()
        except BaseException as error:
            # Whoever waits for the engines raises it: a cancellation that came while one joined, or a fault of ours.
            logger.warning("engine supervisor ended", exc_info=error)
            self._roster.fail(error)

    def _tick(self) -> None:
        for member in self._roster.members(MemberState.RETIRED):
            self._clear(member)
        for member in self._roster.members(MemberState.READY):
            if member.is_leaving and not member.num_portions:
                self._clear(member)
        if not self.membership.acquire(blocking=False):
            self._pings.clear()
            return
        try:
            for member in self._roster.members(MemberState.STARTING):
                self._look_at_start(member)
            for member in self._roster.members(MemberState.READY):
                if member not in self._clearing:
                    self._look_at_health(member)
        finally:
            self.membership.release()

    def _look_at_start(self, member: Member) -> None:
        error: Exception | None = None
        if self._host.wait_any([member.start], 0.0):
            try:
                self._join(member)
            except (ActorDied, EngineFailed, DeadlineExceeded, WeightSyncFailed, ConfigError) as failure:
                error = failure
        elif self._roster.clock() - member.since_s > ENGINE_START_S + ANSWER_S:
            error = DeadlineExceeded("starting the rollout engine", Role.ROLLOUT, ENGINE_START_S)
        if error is not None:
            self._did_not_join(member, error)

    def _join(self, member: Member) -> None:
        self._roster.meet(member, member.start.result())
        self.on_join(member)
        self._roster.welcome(member)
        logger.info("rollout engine joined", extra={"number": member.number, "facts": self._roster.facts})
        self._close_incident(member.number, "engine_replaced", "was replaced")

    def _did_not_join(self, member: Member, error: Exception) -> None:
        """What no engine could serve fails everywhere; so the first to answer shows that it is worth trying again."""
        starting = self._roster.members(MemberState.STARTING)
        nobody_else = self._roster.facts is None and starting == [member]
        if nobody_else or (member.is_first and isinstance(error, ConfigError)):
            self._roster.fail(error)
        else:
            self._roster.retire(member, error)

    def _look_at_health(self, member: Member) -> None:
        """Ask it for a token, or look what has become of that."""
        now, ping = self._roster.clock(), self._pings.get(member)
        if ping is None:
            if now - member.last_sign_s >= self._times.quiet_s:
                self._pings[member] = _Ping(call=member.engine.begin_ping(self._times.token_s), since_s=now)
        elif self._host.wait_any([ping.call], 0.0):
            self._take_answer(member, ping.call)
        elif member.last_sign_s > ping.since_s:
            del self._pings[member]
        elif now - ping.since_s > self._times.token_s + self._times.answer_s:
            self._roster.retire(member, EngineFailed(f"it hangs: no token within {self._times.token_s:.0f} s"))

    def _take_answer(self, member: Member, call: Call) -> None:
        del self._pings[member]
        try:
            call.result()
        except Exception as error:  # whatever it is: it was asked for a token and gave none
            self._roster.retire(member, error)
        else:
            self._roster.heard(member)

    def _clear(self, member: Member) -> None:
        """End an engine step by step; once it is gone another one takes its bundle, or nobody if it was to leave."""
        now, clearing = self._roster.clock(), self._clearing.get(member)
        if clearing is None:
            self._pings.pop(member, None)
            self._clearing[member] = _Clearing(call=member.engine.begin_shutdown(), since_s=now)
        elif not clearing.is_killed:
            if self._host.wait_any([clearing.call], 0.0) or now - clearing.since_s > self._times.clear_s:
                member.engine.kill()
                clearing.is_killed = True
        elif member.is_leaving:
            del self._clearing[member]
            self._roster.remove(member)
            self._host.give_back(member.number)
            self._close_incident(member.number, "engine_lost", "was lost, and its bundle given back")
        elif self._roster.facts is not None:
            del self._clearing[member]
            self.start_engine(member.number)

    def _close_incident(self, number: int, kind: str, outcome: str) -> None:
        """Tell of the incident of a number, if there is one."""
        incident = self._roster.close_incident(number)
        if incident is None:
            return
        seconds = self._roster.clock() - incident.since_s
        self._reports.event(
            kind,
            f"rollout engine {incident.number} {outcome}, {seconds:.0f} s in all: {incident.cause}",
            {
                "engine": incident.number,
                "cause": incident.cause,
                "portions_reissued": incident.num_portions,
                "requests_reissued": incident.num_requests,
                "seconds": round(seconds, 3),
                "starts": incident.num_starts,
                "replacements_left": self._roster.num_replacements_left,
            },
        )
