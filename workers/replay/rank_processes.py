"""The trainer's ranks as processes on this machine, called together as the run's driver called its actors.

    start ──> load (all meet at rank 0) ──> take_weights? ──> prepare_rl ──> rl_step ... ──> close

An exception of a rank is raised here, a rank that dies ends all.
"""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, Self

from service.contract.spec import ExperimentSpec, ModelSpec
from service.contract.stages import RlSpec
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import RlPlan
from workers.rollouts import TrainingSample

_END_S = 10.0
_SEEN_DEAD_S = 2.0
"""Connections of a process that dies break before its end can be seen."""


class RankLost(Exception):
    """A rank's process ended before it answered."""


class ReplayTrainer(Protocol):
    """What a replay asks of the trainer, of one rank or of several."""

    def take_weights(self, checkpoint_root: str, step: int) -> None:
        """See Trainer."""

    def prepare_rl(self, spec: RlSpec, checkpoint_root: str) -> RlPlan:
        """See Trainer."""

    def rl_step(self, step: int, samples: Sequence[TrainingSample], *, temperature: float) -> dict[str, float]:
        """See Trainer."""

    def close(self) -> None:
        """See Trainer."""


def load_trainer(spec: ExperimentSpec, model: ModelSpec, num_ranks: int) -> ReplayTrainer:
    """A trainer with the model loaded: in this process, or in one for each of several ranks."""
    demand = spec.resources.trainer
    settings: dict[str, Any] = {
        "model": model,
        "seed": spec.seed,
        "num_cpus": demand.num_cpus,
        "num_gpus": demand.num_gpus,
        "chats": spec.chats(),
    }
    if num_ranks > 1:
        return RankProcesses.load(settings, num_ranks)
    trainer = Trainer(**settings)
    trainer.load()
    return trainer


class RankProcesses:
    """`ReplayTrainer` over several processes; the first rank's answer counts."""

    def __init__(self, settings: dict[str, Any], num_ranks: int) -> None:
        # A new interpreter each: threads and CUDA do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(num_ranks):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, settings | {"rank": rank, "num_ranks": num_ranks}), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    @classmethod
    def load(cls, settings: dict[str, Any], num_ranks: int) -> Self:
        """Start the processes and let them meet. Raises what the first failing rank raises, or RankLost."""
        ranks = cls(settings, num_ranks)
        try:
            address = ranks._call_on(range(1), "open_store")
            ranks._call("load", address)
        except BaseException:
            ranks.close()
            raise
        return ranks

    def take_weights(self, checkpoint_root: str, step: int) -> None:
        """See Trainer."""
        self._call("take_weights", checkpoint_root, step)

    def prepare_rl(self, spec: RlSpec, checkpoint_root: str) -> RlPlan:
        """See Trainer."""
        plan: RlPlan = self._call("prepare_rl", spec, checkpoint_root)
        return plan

    def rl_step(self, step: int, samples: Sequence[TrainingSample], *, temperature: float) -> dict[str, float]:
        """See Trainer."""
        metrics: dict[str, float] = self._call("rl_step", step, samples, temperature=temperature)
        return metrics

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
            process.close()
        for pipe in self._pipes:
            pipe.close()

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._call_on(range(len(self._pipes)), method, *args, **kwargs)

    def _call_on(self, ranks: range, method: str, *args: Any, **kwargs: Any) -> Any:
        for rank in ranks:
            try:
                self._pipes[rank].send((method, args, kwargs))
            except BrokenPipeError:
                raise self._lost(rank) from None
        answers = [self._answer(rank) for rank in ranks]
        return answers[0]

    def _answer(self, rank: int) -> Any:
        """Waits as long as all ranks live; one that waits for a dead one would do so for long."""
        ready = wait([self._pipes[rank], *self._sentinels])
        if self._pipes[rank] not in ready:
            raise self._lost(self._first_of(ready))
        try:
            answer = self._pipes[rank].recv()
        except EOFError:
            raise self._lost(rank) from None
        if isinstance(answer, Exception):
            raise self._cause_of(answer)
        return answer

    def _cause_of(self, error: Exception) -> Exception:
        """The death of a rank, if that is what another one's RuntimeError comes from: torch says that of lost peers."""
        dead = wait(self._sentinels, _SEEN_DEAD_S) if isinstance(error, RuntimeError) else []
        return self._lost(self._first_of(dead)) if dead else error

    @property
    def _sentinels(self) -> list[int]:
        """By rank; each is ready when its process has ended."""
        return [process.sentinel for process in self._processes]

    def _first_of(self, ready: Sequence[object]) -> int:
        """The lowest rank among the ready sentinels."""
        return min(rank for rank, sentinel in enumerate(self._sentinels) if sentinel in ready)

    def _lost(self, rank: int) -> RankLost:
        process = self._processes[rank]
        # Its pipes close a moment before the code can be read.
        process.join(_END_S)
        return RankLost(
            f"the process of trainer rank {rank} ended with exit code {process.exitcode}; -9 often means that the "
            "machine has too little memory for so many ranks"
        )


def _serve(pipe: Connection, settings: dict[str, Any]) -> None:
    if settings["num_gpus"] > 0:
        # As Ray does it: a rank sees one device. Nothing has asked for CUDA in this process yet.
        os.environ["CUDA_VISIBLE_DEVICES"] = str(settings["rank"])
    trainer = Trainer(**settings)
    while True:
        method, args, kwargs = pipe.recv()
        try:
            answer: Any = getattr(trainer, method)(*args, **kwargs)
        except Exception as error:
            answer = error
        pipe.send(answer)
