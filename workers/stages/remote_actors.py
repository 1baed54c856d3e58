"""The protocols of the stages over Ray actors: each call has a deadline and can be interrupted while it waits."""

import logging
from typing import Any

from service.contract.spec import ExperimentSpec
from service.contract.stages import RlSpec, SftSpec
from workers.actors.rollout import RolloutEngine
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import ModelFacts, RlPlan, SftEnd, SftPlan, SftSlice, WeightManifest
from workers.placement import (
    ActorDied,
    Check,
    DeadlineExceeded,
    Placement,
    Role,
    kill,
    poll,
    put,
    wait_for,
    wait_for_all,
)
from workers.rollouts import Completion, EngineFacts, GenerationRequest, SamplingParameters, TrainingSample
from workers.weight_sync import WeightFolder, WeightSource

logger = logging.getLogger(__name__)

# Seconds. They end what hangs; what is merely slow stays far below them.
LOAD_S = 1800.0
PREPARE_S = 3600.0
STEP_S = 3600.0
SAVE_S = 1800.0
ENGINE_START_S = 1200.0
WEIGHTS_S = 300.0
GENERATE_LEAST_S = 300.0
GENERATE_TOKENS_PER_S = 50.0
"""An engine slower than this, summed over its requests, is taken for hung."""
_ANSWER_S = 30.0
"""How much longer than the engine's own deadline its answer may take to arrive."""
_ENGINE_CONCURRENCY = 16
"""Calls that the engine may have in flight, so that a shutdown never queues behind a generation."""


class RemoteTrainer:
    """`roles.Trainer` over one actor for each rank, which are spawned by `begin_load`.

    Every call goes to all ranks, since they work together, and the first one's answer counts. If one fails, the others
    may be waiting for it and would until their own deadline: all are ended then.
    """

    def __init__(self, placement: Placement, spec: ExperimentSpec, check: Check) -> None:
        self._placement, self._spec, self._check = placement, spec, check
        self._ranks: list[Any] = []
        self._loading: list[Any] = []
        self._facts: ModelFacts | None = None

    def begin_load(self) -> None:
        """Spawn the actors and start loading; returns at once."""
        self._ranks = [self._spawn(rank) for rank in range(self._spec.resources.trainer.num_ranks)]
        # Not waited for: Ray hands the address over when it is there.
        address = self._ranks[0].open_store.remote() if len(self._ranks) > 1 else None
        self._loading = self._call("load", address)

    def wait_loaded(self) -> ModelFacts:
        """Wait until the model is there; later calls return at once."""
        if self._facts is None:
            self._facts = self._wait(self._loading, "loading the model", LOAD_S)
        return self._facts

    def prepare_sft(self, spec: SftSpec, checkpoint_root: str) -> SftPlan:
        """See `roles.Trainer`."""
        return self._wait(self._call("prepare_sft", spec, checkpoint_root), "preparing SFT", PREPARE_S)

    def sft_steps(self, *, max_steps: int, max_seconds: float) -> SftSlice:
        """See `roles.Trainer`."""
        refs = self._call("sft_steps", max_steps=max_steps, max_seconds=max_seconds)
        return self._wait(refs, "an SFT step", STEP_S + max_seconds)

    def save_sft(self) -> str:
        """See `roles.Trainer`."""
        return self._wait(self._call("save_sft"), "saving a checkpoint", SAVE_S)

    def end_sft(self) -> SftEnd:
        """See `roles.Trainer`."""
        return self._wait(self._call("end_sft"), "loading the best checkpoint", LOAD_S)

    def prepare_rl(self, spec: RlSpec, checkpoint_root: str) -> RlPlan:
        """See `roles.Trainer`."""
        return self._wait(self._call("prepare_rl", spec, checkpoint_root), "preparing RL", PREPARE_S)

    def rl_step(self, step: int, samples: list[TrainingSample], *, temperature: float) -> dict[str, float]:
        """See `roles.Trainer`."""
        # Stored once, for all ranks to read.
        shared = put(samples)
        return self._wait(self._call("rl_step", step, shared, temperature=temperature), "an RL step", STEP_S)

    def save_rl(self, step: int, policy_version: int) -> str:
        """See `roles.Trainer`."""
        return self._wait(self._call("save_rl", step, policy_version), "saving a checkpoint", SAVE_S)

    def export(self, folder: str) -> str:
        """See `roles.Trainer`."""
        return self._wait(self._call("export", folder), "exporting the model", SAVE_S)

    def write_weights(self, path: str) -> WeightManifest:
        """The present weights as one safetensors file."""
        return self._wait(self._call("write_weights", path), "writing weights", WEIGHTS_S)

    def release(self) -> None:
        """End the actors' processes, and with them what holds them together."""
        for actor in self._ranks:
            kill(actor)
        self._ranks = []

    def _spawn(self, rank: int) -> Any:
        demand = self._spec.resources.trainer
        return self._placement.spawn(
            Trainer,
            Role.TRAINER,
            place=rank,
            model=self._spec.model,
            seed=self._spec.seed,
            num_cpus=demand.num_cpus,
            num_gpus=demand.num_gpus,
            chats=self._spec.chats(),
            rank=rank,
            num_ranks=demand.num_ranks,
            host=self._placement.hosts[rank],
        )

    def _call(self, method: str, *args: object, **kwargs: object) -> list[Any]:
        return [getattr(actor, method).remote(*args, **kwargs) for actor in self._ranks]

    def _wait(self, refs: list[Any], what: str, deadline_s: float) -> Any:
        try:
            return wait_for_all(refs, what=what, role=Role.TRAINER, deadline_s=deadline_s, check=self._check)[0]
        except Exception:
            self.release()
            raise


class RemoteEngine:
    """`roles.Engine` over an asynchronous actor, which is spawned by `begin_start`."""

    def __init__(self, placement: Placement, spec: ExperimentSpec, check: Check) -> None:
        self._placement, self._spec, self._check = placement, spec, check
        self._actor: Any = None
        self._starting: Any = None
        self._started = False
        self._facts: EngineFacts | None = None

    def begin_start(self) -> None:
        """Spawn the actor and start vLLM in it; returns at once."""
        demand = self._spec.resources.rollout
        self._actor = self._placement.spawn(
            RolloutEngine,
            Role.ROLLOUT,
            max_concurrency=_ENGINE_CONCURRENCY,
            model=self._spec.model,
            seed=self._spec.seed,
            num_cpus=demand.num_cpus,
            num_gpus=demand.num_gpus,
            chats=self._spec.chats(),
        )
        self._starting = self._actor.start.remote(ENGINE_START_S)

    def check_start(self) -> None:
        """Raise if the start has failed; never waits."""
        if self._starting is not None and not self._started:
            self._started = poll(self._starting, role=Role.ROLLOUT)

    def wait_started(self) -> EngineFacts:
        """Wait until vLLM answers; later calls return at once."""
        if self._facts is None:
            self._facts = self._wait(self._starting, "starting the rollout engine", ENGINE_START_S)
            logger.info("rollout engine ready", extra={"facts": self._facts})
            self._started = True
        return self._facts

    def generate(self, requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        """See `roles.Engine`. The deadline grows with the tokens that may come."""
        most_tokens = len(requests) * sampling.max_completion_length
        deadline_s = GENERATE_LEAST_S + most_tokens / GENERATE_TOKENS_PER_S
        return self._wait(
            self._actor.generate.remote(requests, sampling, deadline_s=deadline_s), "a generation", deadline_s
        )

    def update_weights(self, source: WeightSource, version: int) -> None:
        """Load a weight file; the engine generates nothing meanwhile."""
        ref = self._actor.update_weights.remote(source, version, deadline_s=WEIGHTS_S)
        self._wait(ref, "a weight update", WEIGHTS_S)

    def release(self, graceful_s: float) -> None:
        """Shut vLLM down within `graceful_s`, then end the actor's process whatever came of it."""
        if self._actor is None:
            return
        if graceful_s > 0:
            self._shut_down(graceful_s)
        kill(self._actor)
        self._actor = None

    def _shut_down(self, deadline_s: float) -> None:
        ref = self._actor.shutdown.remote()
        try:
            wait_for(ref, what="engine shutdown", role=Role.ROLLOUT, deadline_s=deadline_s, check=_go_on)
        except (DeadlineExceeded, ActorDied) as error:
            logger.warning("rollout engine not shut down, killing it", extra={"error": str(error)})

    def _wait(self, ref: Any, what: str, deadline_s: float) -> Any:
        return wait_for(ref, what=what, role=Role.ROLLOUT, deadline_s=deadline_s + _ANSWER_S, check=self._check)


class SharedFileSync:
    """`roles.WeightSync`: the trainer writes a file, the engine loads it, the file is gone again."""

    def __init__(self, trainer: RemoteTrainer, engine: RemoteEngine, folder: WeightFolder) -> None:
        self._trainer, self._engine, self._folder = trainer, engine, folder

    def __call__(self, version: int) -> None:
        """See `roles.WeightSync`."""
        path = self._folder.path(version)
        try:
            manifest = self._trainer.write_weights(path)
            self._engine.update_weights(WeightSource(path=path, manifest=manifest), version)
        finally:
            self._folder.discard(path)


def _go_on() -> None:
    """The check of a wait that nothing but its deadline may end."""
