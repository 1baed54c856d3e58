"""All rollout engines of an attempt as one: `roles.Engine` over members that come and go.

    generate ──> portions of whole groups ──> the member with the least to do ──> completions in the requests' order
                   ^                                    │ dies, hangs, fails
                   └──── taken back, same seeds ────────┘ and is replaced by the supervisor

Whoever calls `generate` drives its own portions, in its own thread. With one engine that is one remote call.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil

from workers.actors.vllm_adapter import EngineFailed
from workers.actors.vllm_sleep import SleepLevel
from workers.placement import ActorDied, Check, DeadlineExceeded
from workers.rollouts import Completion, EngineFacts, GenerationRequest, SamplingParameters
from workers.stages.engine_batch import Batch, Flight
from workers.stages.engine_roster import MOST_IN_PORTION, Member, MemberState, Roster
from workers.stages.engine_supervisor import USUAL_TIMES, Host, OnJoin, PoolTimes, Supervisor
from workers.stages.remote_engine import ANSWER_S, SLEEP_S, Call, RemoteEngine
from workers.stages.roles import Reports

logger = logging.getLogger(__name__)

GENERATE_LEAST_S = 300.0
GENERATE_TOKENS_PER_S = 50.0
"""An engine slower than this, summed over its requests, is taken for hung."""
REPLACEMENTS_PER_ENGINE = 3
"""Engines that an attempt may lose, for each of those with which it begins."""
_PORTIONS_PER_ENGINE = 4


class EnginePool:
    """`roles.Engine`; `generate` may be called from several threads at once."""

    def __init__(self, host: Host, reports: Reports, check: Check, times: PoolTimes = USUAL_TIMES) -> None:
        """`check` is called in every wait, in the thread that waits; incidents are told to `reports`."""
        self._host, self._interrupted, self._poll_s = host, check, times.poll_s
        self._roster = Roster(REPLACEMENTS_PER_ENGINE * host.num_engines)
        self._supervisor = Supervisor(host, self._roster, reports, times, self._check)

    def begin_start(self) -> None:
        """Start all engines; returns at once."""
        self._supervisor.begin()

    def check_start(self) -> None:
        """Raise if none has started and none will, or if more have failed than may be replaced; never waits."""
        self._roster.check()

    def wait_started(self) -> EngineFacts:
        """Wait until each engine with which the attempt began has answered or failed, and at least one is ready.

        Those that failed are being replaced meanwhile; nobody waits for them.
        """
        while self._first_are_starting() or not self.members():
            self._check()
            self._roster.wait(self._poll_s)
        facts = self._roster.facts
        assert facts is not None, "a ready engine has said what it is"
        return facts

    def generate(self, requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        """See `roles.Engine`. Raises EngineFailed if engines fail more often than they may be replaced."""
        batch = Batch(requests, self._portion_size(len(requests)))
        try:
            while not batch.is_done:
                self._check()
                self._hand_out(batch, sampling)
                self._take_back(batch)
            return batch.completions()
        finally:
            self._abandon(batch)

    def take_metrics(self) -> dict[str, float]:
        """What happened since the last call, by metric name."""
        return {
            "engines/num_ready": float(len(self.members())),
            "engines/num_reissued": float(self._roster.take_num_reissued()),
        }

    def members(self) -> list[Member]:
        """The engines that generate at present; one that joins later is told by `on_join`."""
        return self._roster.members(MemberState.READY)

    def retire(self, member: Member, error: Exception) -> None:
        """A member has failed: it gets nothing more, and another one takes its place.

        Raises EngineFailed if no replacement is left.
        """
        self._roster.retire(member, error)
        self._roster.check()

    def replace(self, number: int, cause: str) -> bool:
        """Retire an engine that somebody else has found at fault; says whether it was there to be retired."""
        member = next((member for member in self.members() if member.number == number), None)
        if member is not None:
            self._roster.retire(member, EngineFailed(cause))
        return member is not None

    def set_on_join(self, on_join: OnJoin) -> None:
        """To be called with each engine that has started, before it gets a request; replaced engines included."""
        self._supervisor.on_join = on_join

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """No engine joins and none is asked for a sign of life within the block, as during a weight sync."""
        while not self._supervisor.membership.acquire(timeout=self._poll_s):
            self._check()
        try:
            yield
        finally:
            for member in self.members():
                self._roster.heard(member)
            self._supervisor.membership.release()

    def wait_settled(self) -> None:
        """Wait until no engine is starting or about to be replaced."""
        while len(self.members()) < len(self._roster.members()):
            self._check()
            self._roster.wait(self._poll_s)

    def sleep(self, level: SleepLevel) -> None:
        """Let all engines sleep, see `RolloutEngine.sleep`; nothing may be under way. One that fails is replaced."""
        self._tell_all("going to sleep", lambda engine: engine.begin_sleep(level))

    def wake_up(self) -> None:
        """Let all engines that sleep go on. One that fails is replaced."""
        self._tell_all("waking up", lambda engine: engine.begin_wake_up())

    def is_serving(self) -> bool:
        """Whether at least one engine generates at present."""
        return bool(self.members())

    def numbers(self) -> set[int]:
        """Of all engines, those that start, fail or are about to go included."""
        return {member.number for member in self._roster.members()}

    def add(self, node: str = "") -> int:
        """Start one more engine, on the node of this id; returns its number.

        It takes part once it holds the weights that the pool serves. If it fails it is given back and not replaced:
        whoever added it may add another. Raises NoPlacement if there is no room for it.
        """
        number = self._host.add(self._check, node)
        self._supervisor.start_engine(number)
        return number

    def remove(self, number: int) -> None:
        """Let an engine go that was added: it gets no further portion, and goes when it has none left.

        Raises ValueError for one of those with which the attempt began, KeyError for one that is not there.
        """
        if number < self._host.num_engines:
            raise ValueError(f"engine {number} was there from the beginning and stays to the end")
        self._roster.named(number).is_leaving = True

    def release(self, graceful_s: float) -> None:
        """End all engines: vLLM's processes within `graceful_s`, then the actors' whatever came of it."""
        self._roster.fail(EngineFailed("the rollout engines were released"))
        self._supervisor.stop()
        members = self._roster.members()
        if graceful_s > 0:
            self._shut_down(members, graceful_s)
        for member in members:
            member.engine.kill()
            self._roster.remove(member)

    def _tell_all(self, what: str, begin: Callable[[RemoteEngine], Call]) -> None:
        for member, call in [(member, begin(member.engine)) for member in self.members()]:
            try:
                member.engine.wait(call, what, SLEEP_S)
            except (ActorDied, EngineFailed, DeadlineExceeded) as error:
                self.retire(member, error)

    def _check(self) -> None:
        self._interrupted()
        self._roster.check()

    def _first_are_starting(self) -> bool:
        return any(member.is_first for member in self._roster.members(MemberState.STARTING))

    def _portion_size(self, num_requests: int) -> int:
        num_engines = len(self._roster.members())
        if num_engines <= 1:
            return num_requests
        return min(MOST_IN_PORTION, ceil(num_requests / (_PORTIONS_PER_ENGINE * num_engines)))

    def _hand_out(self, batch: Batch, sampling: SamplingParameters) -> None:
        """As many of the waiting portions as there is room for."""
        while batch.waiting:
            portion = batch.waiting[0]
            num_tokens = len(portion.requests) * sampling.max_completion_length
            member = self._roster.take(len(portion.requests), num_tokens)
            if member is None:
                return
            batch.waiting.popleft()
            deadline_s = GENERATE_LEAST_S + member.num_tokens / GENERATE_TOKENS_PER_S
            call = member.engine.begin_generate(portion.requests, sampling, deadline_s)
            limit_s = self._roster.clock() + deadline_s + ANSWER_S
            batch.flights.append(
                Flight(portion=portion, member=member, call=call, num_tokens=num_tokens, limit_s=limit_s)
            )

    def _take_back(self, batch: Batch) -> None:
        """What has ended, well or badly; waits a moment for something to end."""
        if not batch.flights:
            if batch.waiting:
                self._roster.wait(self._poll_s)
            return
        ended = self._host.wait_any([flight.call for flight in batch.flights], self._poll_s)
        for flight in list(batch.flights):
            if flight.call in ended:
                self._land(batch, flight)
            elif flight.member.is_retired:
                self._lose(batch, flight)
            elif self._roster.clock() > flight.limit_s:
                error = EngineFailed(f"it hangs: {len(flight.portion.requests)} completions did not come in time")
                self._roster.retire(flight.member, error)
                self._lose(batch, flight)

    def _land(self, batch: Batch, flight: Flight) -> None:
        try:
            batch.land(flight, flight.call.result())
        except (ActorDied, EngineFailed) as error:
            self._roster.retire(flight.member, error)
            self._lose(batch, flight)
        else:
            self._roster.heard(flight.member)
            self._settle(flight)

    def _lose(self, batch: Batch, flight: Flight) -> None:
        self._settle(flight)
        self._roster.lost(len(flight.portion.requests))
        batch.lose(flight)

    def _settle(self, flight: Flight) -> None:
        self._roster.returned(flight.member, len(flight.portion.requests), flight.num_tokens)

    def _abandon(self, batch: Batch) -> None:
        """Nobody waits any more for what is still under way."""
        for flight in batch.flights:
            self._settle(flight)
            if not self._roster.has_failed:
                flight.call.give_up()

    def _shut_down(self, members: Sequence[Member], deadline_s: float) -> None:
        calls: list[Call] = [member.engine.begin_shutdown() for member in members]
        limit = time.monotonic() + deadline_s
        while calls and (left_s := limit - time.monotonic()) > 0:
            ended = self._host.wait_any(calls, left_s)
            calls = [call for call in calls if call not in ended]
        if calls:
            logger.warning("rollout engines not shut down, killing them", extra={"num_engines": len(calls)})
