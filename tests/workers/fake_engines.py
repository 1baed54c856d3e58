"""Engines without Ray or vLLM behind the seam of the pool: each call is a future that the test may hold back."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from workers.placement import ActorDied, Check, Role
from workers.rollouts import Completion, EngineFacts, GenerationRequest, Prompt, SamplingParameters
from workers.stages.engine_roster import Member
from workers.stages.engine_supervisor import PoolTimes

FACTS = EngineFacts(vllm_version="0", eos_token_ids=(2,), start_s=1.0)
SAMPLING = SamplingParameters(temperature=1.0, max_completion_length=8)
QUICK = PoolTimes(poll_s=0.01, quiet_s=0.05, token_s=0.2, answer_s=0.1, clear_s=0.05)
"""A hung engine is found in 0.3 seconds."""


class FakeCall:
    """As `remote_engine.Call`."""

    def __init__(self) -> None:
        self.future: Future[object] = Future()
        self.is_given_up = False

    def result(self) -> object:
        return self.future.result(timeout=10.0)

    def give_up(self) -> None:
        self.is_given_up = True

    def end(self, value: object) -> "FakeCall":
        """With a result, or with an exception; a call that has ended stays as it is."""
        if not self.future.done():
            if isinstance(value, Exception):
                self.future.set_exception(value)
            else:
                self.future.set_result(value)
        return self


class FakeEngine:
    """As `remote_engine.RemoteEngine`: answers at once unless it hangs, is slow or fails."""

    host = "somewhere"

    def __init__(self, number: int, generation: int) -> None:
        self.number, self.generation = number, generation
        self.facts: EngineFacts | Exception = FACTS
        self.version = 0
        self.portions: list[list[GenerationRequest]] = []
        self.open: list[FakeCall] = []
        self.is_hung = False
        self.is_held = False
        """Whether generations wait for `let_go`; it lives all the same."""
        self.failure: Exception | None = None
        self.is_dead = False
        self.num_pings = 0
        self.held: list[tuple[FakeCall, list[GenerationRequest]]] = []

    def begin_start(self) -> FakeCall:
        return self._answer(self.facts)

    def begin_generate(
        self, requests: list[GenerationRequest], sampling: SamplingParameters, deadline_s: float
    ) -> FakeCall:
        assert deadline_s > 0
        self.portions.append(requests)
        if self.is_held:
            call = self._open()
            self.held.append((call, requests))
            return call
        return self._answer(self.failure or [self.complete(request) for request in requests])

    def begin_ping(self, deadline_s: float) -> FakeCall:
        self.num_pings += 1
        return self._answer(None)

    def begin_shutdown(self) -> FakeCall:
        return self._answer(None)

    def kill(self) -> None:
        """Also what the kernel does to it."""
        self.is_dead = True
        for call in self.open:
            call.end(self._death())

    def let_go(self) -> None:
        """End what was held back."""
        self.is_held = False
        for call, requests in self.held:
            call.end([self.complete(request) for request in requests])

    def complete(self, request: GenerationRequest) -> Completion:
        return Completion(
            prompt_uid=request.prompt.uid,
            sample_index=request.sample_index,
            token_ids=(request.seed, 2),
            logprobs=(0.0, 0.0),
            finish_reason="stop",
            text="",
            policy_version=self.version,
        )

    def _answer(self, value: object) -> FakeCall:
        if self.is_dead:
            return FakeCall().end(self._death())
        return self._open() if self.is_hung else FakeCall().end(value)

    def _open(self) -> FakeCall:
        self.open.append(FakeCall())
        return self.open[-1]

    def _death(self) -> ActorDied:
        return ActorDied(Role.ROLLOUT, "killed", rank=self.number)


class FakeHost:
    """As `remote_engine.EngineHost`; `prepare` sees each engine before it is started."""

    def __init__(self, num_engines: int, prepare: Callable[[FakeEngine], None] = lambda engine: None) -> None:
        self.num_engines = num_engines
        self.prepare = prepare
        self.engines: list[FakeEngine] = []
        """All that were ever spawned."""
        self.given_back: list[int] = []
        self._generations: Counter[int] = Counter()
        self._num_added = 0

    def spawn(self, number: int, check: Check) -> FakeEngine:
        assert all(engine.is_dead for engine in self.engines if engine.number == number), "two in one bundle"
        engine = FakeEngine(number, self._generations[number])
        self._generations[number] += 1
        self.prepare(engine)
        self.engines.append(engine)
        return engine

    def add(self, check: Check, node: str = "") -> int:
        check()
        self._num_added += 1
        return self.num_engines + self._num_added - 1

    def give_back(self, number: int) -> None:
        self.given_back.append(number)

    def wait_any(self, calls: Sequence[FakeCall], timeout_s: float) -> list[FakeCall]:
        wait([call.future for call in calls], timeout=timeout_s, return_when=FIRST_COMPLETED)
        return [call for call in calls if call.future.done()]


def requests_of(num_prompts: int, num_generations: int) -> list[GenerationRequest]:
    """Seeds rise with the place."""
    return [
        GenerationRequest(
            prompt=Prompt(uid=uid, text="", token_ids=(3,), answer=""),
            sample_index=index,
            seed=100 + uid * num_generations + index,
        )
        for uid in range(num_prompts)
        for index in range(num_generations)
    ]


def seeds_of(completions: list[Completion]) -> list[int]:
    """Of the requests that they answer."""
    return [completion.token_ids[0] for completion in completions]


class InBackground:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._future: Future[object] = Future()
        self._function = function
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def is_done(self) -> bool:
        return self._future.done()

    def result(self) -> object:
        return self._future.result(timeout=10.0)

    def _run(self) -> None:
        try:
            self._future.set_result(self._function())
        except BaseException as error:
            self._future.set_exception(error)


def ready_numbers(members: list[Member]) -> list[int]:
    """Of a pool's members."""
    return [member.number for member in members]
