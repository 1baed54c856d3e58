"""Trainer and engines by turns, where they share their bundles: whoever works has all of it.

    the engines' turn ── a call of the trainer: engines sleep ──> the trainer's turn
          ^                                                            │
          └──── a generation, or a weight sync: engines wake up ───────┘

Each role is wrapped so that a call of it begins with its turn; a weight sync is both sides', and engines wake up in it
by themselves, their cache last. Before a step of reinforcement learning, which makes their weights old, engines drop
them; at other times they keep them. An engine that is lost is replaced in the engines' turn: the trainer waits for it.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Protocol

from service.contract.stages import RlSpec, SftSpec
from workers.actors.trainer_results import ModelFacts, RlCarried, RlPlan, SftEnd, SftPlan, SftSlice
from workers.actors.vllm_sleep import SleepLevel
from workers.rollouts import Completion, EngineFacts, GenerationRequest, SamplingParameters, TrainingSample
from workers.stages.roles import Engine, Trainer, WeightSync
from workers.stages.stage_context import NO_WEIGHTS, PolicyVersions, StageContext


@contextmanager
def by_turns(context: StageContext, engines: "SleepingEngines") -> Iterator[StageContext]:
    """The same context with roles that work by turns; `engines` are those of the context."""
    turns = Turns(engines, context.versions)
    try:
        yield replace(
            context,
            trainer=TrainerByTurns(context.trainer, turns),
            engine=EnginesByTurns(context.engine, turns),
            sync_weights=SyncByTurns(context.sync_weights, turns),
        )
    finally:
        turns.end()


class SleepingEngines(Engine, Protocol):
    """What turns ask of the pool."""

    def wait_settled(self) -> None: ...
    def sleep(self, level: SleepLevel) -> None: ...
    def wake_up(self) -> None: ...
    def undisturbed(self) -> AbstractContextManager[None]: ...


class Turns:
    """Whose turn it is; all calls come from one thread."""

    def __init__(self, engines: SleepingEngines, versions: PolicyVersions) -> None:
        self._engines, self._versions = engines, versions
        self._has_engines = False
        self._rest = ExitStack()
        """Holds the supervisor off engines that sleep."""
        self._are_asleep = False

    def engines_begin(self) -> None:
        """There are engines from now on."""
        self._has_engines = True

    def trainers(self, level: SleepLevel = 1) -> None:
        """The engines sleep from now on."""
        if not self._has_engines or self._are_asleep:
            return
        self._engines.wait_started()
        self._engines.wait_settled()
        self._rest.enter_context(self._engines.undisturbed())
        self._engines.sleep(level)
        self._are_asleep = True
        if level == 2:
            self._versions.engine = NO_WEIGHTS

    def engines(self) -> None:
        """The engines are awake from now on."""
        if self._are_asleep:
            self._engines.wake_up()
            self.engines_woke()

    def engines_woke(self) -> None:
        """By themselves."""
        self._are_asleep = False
        self._rest.close()

    def end(self) -> None:
        """Nobody takes a turn any more; engines that sleep are ended as they are."""
        self._rest.close()


class EnginesByTurns:
    """See `roles.Engine`."""

    def __init__(self, engines: Engine, turns: Turns) -> None:
        self._engines, self._turns = engines, turns

    def begin_start(self) -> None:
        """See `roles.Engine`."""
        self._turns.engines_begin()
        self._engines.begin_start()

    def check_start(self) -> None:
        """See `roles.Engine`."""
        self._engines.check_start()

    def wait_started(self) -> EngineFacts:
        """See `roles.Engine`."""
        return self._engines.wait_started()

    def generate(self, requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        """See `roles.Engine`."""
        self._turns.engines()
        return self._engines.generate(requests, sampling)

    def take_metrics(self) -> dict[str, float]:
        """See `roles.Engine`."""
        return self._engines.take_metrics()


class SyncByTurns:
    """See `roles.WeightSync`: engines that sleep wake up in the update."""

    def __init__(self, sync: WeightSync, turns: Turns) -> None:
        self._sync, self._turns = sync, turns

    def __call__(self, version: int) -> Mapping[str, float]:
        """See `roles.WeightSync`."""
        metrics = self._sync(version)
        self._turns.engines_woke()
        return metrics

    def trainer_replaced(self) -> None:
        """See `roles.WeightSync`."""
        self._sync.trainer_replaced()


class TrainerByTurns:
    """See `roles.Trainer`."""

    def __init__(self, trainer: Trainer, turns: Turns) -> None:
        self._trainer, self._turns = trainer, turns

    def begin_load(self) -> None:
        """See `roles.Trainer`; returns when the engines, which start first, have begun to sleep."""
        self._turns.trainers()
        self._trainer.begin_load()

    def wait_loaded(self) -> ModelFacts:
        """See `roles.Trainer`."""
        return self._trainer.wait_loaded()

    def restart(self) -> bool:
        """See `roles.Trainer`."""
        self._turns.trainers()
        return self._trainer.restart()

    def prepare_sft(self, spec: SftSpec, checkpoint_root: str) -> SftPlan:
        """See `roles.Trainer`."""
        self._turns.trainers()
        return self._trainer.prepare_sft(spec, checkpoint_root)

    def sft_steps(self, *, max_steps: int, max_seconds: float) -> SftSlice:
        """See `roles.Trainer`."""
        self._turns.trainers()
        return self._trainer.sft_steps(max_steps=max_steps, max_seconds=max_seconds)

    def save_sft(self) -> str:
        """See `roles.Trainer`."""
        self._turns.trainers()
        return self._trainer.save_sft()

    def end_sft(self) -> SftEnd:
        """See `roles.Trainer`."""
        self._turns.trainers()
        return self._trainer.end_sft()

    def take_weights(self, checkpoint_root: str, step: int) -> None:
        """See `roles.Trainer`."""
        self._turns.trainers()
        self._trainer.take_weights(checkpoint_root, step)

    def prepare_rl(self, spec: RlSpec, checkpoint_root: str) -> RlPlan:
        """See `roles.Trainer`."""
        self._turns.trainers()
        return self._trainer.prepare_rl(spec, checkpoint_root)

    def rl_step(self, step: int, samples: list[TrainingSample], *, temperature: float) -> dict[str, float]:
        """See `roles.Trainer`."""
        self._turns.trainers(level=2)
        return self._trainer.rl_step(step, samples, temperature=temperature)

    def save_rl(self, step: int, policy_version: int, carried: RlCarried | None = None) -> str:
        """See `roles.Trainer`."""
        self._turns.trainers()
        return self._trainer.save_rl(step, policy_version, carried)

    def export(self, folder: str) -> str:
        """See `roles.Trainer`."""
        self._turns.trainers()
        return self._trainer.export(folder)
