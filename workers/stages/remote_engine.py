"""One rollout engine as the driver sees it: calls that are begun, and come back when they do."""

from collections.abc import Sequence
from typing import Any

from service.contract.spec import ExperimentSpec
from workers.actors.rollout import RolloutEngine
from workers.actors.vllm_sleep import SleepLevel
from workers.placement import Check, Placement, Role, cancel, ended, fetch, kill, wait_for
from workers.rollouts import GenerationRequest, SamplingParameters
from workers.weight_sync import UpdateOrder

# Seconds. They end what hangs; what is merely slow stays far below them.
ENGINE_START_S = 1200.0
SLEEP_S = 120.0
"""For going to sleep and for waking up: weights travel between a GPU and the host's memory at most."""
ANSWER_S = 30.0
"""How much longer than the engine's own deadline its answer may take to arrive."""
_CONCURRENCY = 128
"""Calls that an engine may have in flight, so that a shutdown or a ping never queues behind generations."""
_ADD_S = 300.0


class Call:
    """A call at an engine, under way or ended."""

    def __init__(self, ref: Any, number: int) -> None:
        self.ref = ref
        self._number = number

    def result(self) -> Any:
        """What the call has come to. Raises ActorDied, or what the engine raised. Waits if it is still under way."""
        return fetch(self.ref, Role.ROLLOUT, self._number)

    def give_up(self) -> None:
        """Nobody waits for it any more, so the engine need not go on with it."""
        cancel(self.ref)


class RemoteEngine:
    """An asynchronous actor with vLLM in one of the attempt's bundles; spawned at once."""

    def __init__(self, placement: Placement, spec: ExperimentSpec, number: int, check: Check) -> None:
        """`check` is called while an update is waited for."""
        self.number = number
        self._placement, self._check = placement, check
        demand = spec.resources.rollout
        self._actor = placement.spawn(
            RolloutEngine,
            Role.ROLLOUT,
            place=number,
            max_concurrency=_CONCURRENCY,
            model=spec.model,
            seed=spec.seed,
            num_cpus=demand.num_cpus,
            num_gpus=demand.num_gpus,
            tensor_parallel_size=demand.tensor_parallel_size,
            works_by_turns=spec.resources.placement == "colocated",
            chats=spec.chats(),
        )

    @property
    def host(self) -> str:
        """The address of its node at present."""
        return self._placement.host_of(Role.ROLLOUT, self.number)

    @property
    def handle(self) -> Any:
        """The actor itself, for a trainer that talks to it."""
        return self._actor

    def begin_start(self) -> Call:
        """Start vLLM in it; comes to its `EngineFacts`."""
        return self._begin("start", ENGINE_START_S)

    def begin_generate(
        self, requests: list[GenerationRequest], sampling: SamplingParameters, deadline_s: float
    ) -> Call:
        """See `RolloutEngine.generate`; comes to the completions."""
        return self._begin("generate", requests, sampling, deadline_s=deadline_s)

    def begin_ping(self, deadline_s: float) -> Call:
        """See `RolloutEngine.ping`."""
        return self._begin("ping", deadline_s)

    def begin_sleep(self, level: SleepLevel) -> Call:
        """See `RolloutEngine.sleep`."""
        return self._begin("sleep", level, deadline_s=SLEEP_S)

    def begin_wake_up(self) -> Call:
        """See `RolloutEngine.wake_up`."""
        return self._begin("wake_up", deadline_s=SLEEP_S)

    def begin_shutdown(self) -> Call:
        """End vLLM's processes."""
        return self._begin("shutdown")

    def begin_update(self, order: UpdateOrder, content: Any = None) -> Call:
        """See `RolloutEngine.update_weights`; `content` is the reference of one. Comes to an UpdateReport."""
        return self._begin("update_weights", order, content)

    def begin_end_update(self, version: int, probe: tuple[tuple[int, ...], ...]) -> Call:
        """See `RolloutEngine.end_update`; comes to an UpdateReport."""
        return self._begin("end_update", version, probe)

    def begin_confirm(self, version: int) -> Call:
        """See `RolloutEngine.confirm_weights`."""
        return self._begin("confirm_weights", version)

    def begin_checksums(self) -> Call:
        """See `RolloutEngine.weight_checksums`."""
        return self._begin("weight_checksums")

    def wait(self, call: Call, what: str, deadline_s: float) -> Any:
        """The result of a call that is begun, by the deadline that was given to it."""
        return wait_for(call.ref, what=what, role=Role.ROLLOUT, deadline_s=deadline_s + ANSWER_S, check=self._check)

    def kill(self) -> None:
        """End its process at once."""
        kill(self._actor)

    def _begin(self, method: str, *args: object, **kwargs: object) -> Call:
        return Call(getattr(self._actor, method).remote(*args, **kwargs), self.number)


class EngineHost:
    """Where the pool's engines come from: the attempt's bundles, and further ones that Ray may have."""

    def __init__(self, placement: Placement, spec: ExperimentSpec) -> None:
        self._placement, self._spec = placement, spec
        self.num_engines = spec.resources.rollout.num_engines

    def spawn(self, number: int, check: Check) -> RemoteEngine:
        """Another actor in an engine's bundle; the one before it must have been killed."""
        return RemoteEngine(self._placement, self._spec, number, check)

    def add(self, check: Check, node: str = "") -> int:
        """A bundle for one more engine. Raises NoPlacement if there is none within minutes."""
        return self._placement.add_engine(node=node, deadline_s=_ADD_S, check=check)

    def give_back(self, number: int) -> None:
        """The bundle of an engine that was added."""
        self._placement.remove_engine(number)

    def wait_any(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        """Those that have ended, once one has or the time is up."""
        refs = ended([call.ref for call in calls], timeout_s)
        return [call for call in calls if call.ref in refs]
