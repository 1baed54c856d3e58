"""`roles.Trainer` over Ray actors: each call has a deadline and can be interrupted while it waits."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from service.contract.spec import ExperimentSpec
from service.contract.stages import RlSpec, SftSpec
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import ModelFacts, RlCarried, RlPlan, SftEnd, SftPlan, SftSlice
from workers.placement import ActorDied, Check, Placement, Role, kill, put, wait_for_all
from workers.rollouts import TrainingSample
from workers.weight_sync import SendReport

logger = logging.getLogger(__name__)

# Seconds. They end what hangs; what is merely slow stays far below them.
LOAD_S = 1800.0
PREPARE_S = 3600.0
STEP_S = 3600.0
SAVE_S = 1800.0
_WEIGHTS_LEAST_S = 300.0
_WEIGHT_BYTES_PER_S = 50e6
"""A way for weights slower than this is taken for hung; less than a network of 1 Gbit/s has."""
_GIVE_UP_S = 60.0
"""What the trainer needs beyond its own deadline to tear a group down and say so."""


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

    def restart(self) -> bool:
        """See `roles.Trainer`. The bundles must lie where they lay: ranks meet at the addresses of their nodes."""
        self.release()
        if not self._placement.trainer_stands:
            return False
        self._facts = None
        self.begin_load()
        return True

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

    def save_rl(self, step: int, policy_version: int, carried: RlCarried | None = None) -> str:
        """See `roles.Trainer`."""
        return self._wait(self._call("save_rl", step, policy_version, put(carried)), "saving a checkpoint", SAVE_S)

    def export(self, folder: str) -> str:
        """See `roles.Trainer`."""
        return self._wait(self._call("export", folder), "exporting the model", SAVE_S)

    @property
    def weights_deadline_s(self) -> float:
        """See `weight_synchroniser.Scorer`."""
        num_parameters = self._facts.num_parameters if self._facts else 0
        return _WEIGHTS_LEAST_S + 4 * num_parameters / _WEIGHT_BYTES_PER_S

    def begin_write_weights(self, path: str, *, with_digests: bool) -> "TrainerCall":
        """The present weights as one file; comes to a WeightManifest."""
        refs = self._call("write_weights", path, with_digests=with_digests)
        return self._begin("writing weights", self.weights_deadline_s, refs)

    def begin_put_weights(self, *, with_digests: bool) -> tuple["TrainerCall", Any]:
        """What that file would hold as an object in Ray's store; the call comes to a WeightManifest."""
        pairs = [actor.weight_content.options(num_returns=2).remote(with_digests=with_digests) for actor in self._ranks]
        refs = [manifest for manifest, _ in pairs]
        return self._begin("putting weights into Ray's store", self.weights_deadline_s, refs), pairs[0][1]

    def join_engines(self, engines: Sequence[Any], names: Sequence[str]) -> str | None:
        """See `NcclTransport`: a group with the engines' actors."""
        num_workers = [self._spec.resources.rollout.tensor_parallel_size] * len(engines)
        deadline_s = self.weights_deadline_s
        refs = self._call("join_engines", list(engines), list(names), num_workers, deadline_s=deadline_s)
        return self._wait(refs, "joining a transfer group", deadline_s + _GIVE_UP_S)

    def send_weights(self, *, with_digests: bool) -> SendReport:
        """See `NcclTransport`: the present weights to all engines of the group."""
        deadline_s = self.weights_deadline_s
        refs = self._call("send_weights", with_digests=with_digests, deadline_s=deadline_s)
        return self._wait(refs, "sending weights", deadline_s + _GIVE_UP_S)

    def begin_scores(self, sequences: tuple[tuple[int, ...], ...]) -> Callable[[], list[list[float]]]:
        """Log-probs of sequences' tokens but the first; waited for when the answer is asked for."""
        pairs = [(list(tokens[:1]), list(tokens[1:])) for tokens in sequences]
        refs = self._call("logprobs", pairs, temperature=1.0)
        return self._begin("scoring the probe of a weight sync", self.weights_deadline_s, refs).result

    def end(self, cause: str) -> bool:
        """End ranks that somebody has found at fault, from any thread: whoever waits for them hears of it as of a
        death. Says whether there were any."""
        logger.warning("trainer ended", extra={"cause": cause})
        had_any = bool(self._ranks)
        self.release()
        return had_any

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

    def _begin(self, what: str, deadline_s: float, refs: list[Any]) -> "TrainerCall":
        ranks = self._ranks
        return TrainerCall(lambda: self._wait(refs, what, deadline_s, ranks))

    def _call(self, method: str, *args: object, **kwargs: object) -> list[Any]:
        if not self._ranks:
            raise ActorDied(Role.TRAINER, "its processes were ended")
        return [getattr(actor, method).remote(*args, **kwargs) for actor in self._ranks]

    def _wait(self, refs: list[Any], what: str, deadline_s: float, asked: list[Any] | None = None) -> Any:
        """The first rank's answer. `asked` are the ranks of an earlier call: those that followed them are spared."""
        try:
            return wait_for_all(refs, what=what, role=Role.TRAINER, deadline_s=deadline_s, check=self._check)[0]
        except Exception:
            if asked is None or asked is self._ranks:
                self.release()
            raise


class TrainerCall:
    """A call to all ranks that is under way; its deadline counts from when it is waited for."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        self._wait = wait
        self._result: Any = None

    def result(self) -> Any:
        """The first rank's answer; a second call gives the same. Raises as every call to the trainer does."""
        if self._result is None:
            self._result = self._wait()
        return self._result
