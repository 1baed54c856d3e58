"""`roles.Trainer` over Ray actors: each call has a deadline and can be interrupted while it waits."""

from typing import Any

from service.contract.spec import ExperimentSpec
from service.contract.stages import RlSpec, SftSpec
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import ModelFacts, RlPlan, SftEnd, SftPlan, SftSlice, WeightManifest
from workers.placement import Check, Placement, Role, kill, put, wait_for_all
from workers.rollouts import TrainingSample

# Seconds. They end what hangs; what is merely slow stays far below them.
LOAD_S = 1800.0
PREPARE_S = 3600.0
STEP_S = 3600.0
SAVE_S = 1800.0
WEIGHTS_S = 300.0


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

    def take_weights(self, checkpoint_root: str, step: int) -> None:
        """See `roles.Trainer`."""
        self._wait(self._call("take_weights", checkpoint_root, step), "loading a reused checkpoint", LOAD_S)

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
