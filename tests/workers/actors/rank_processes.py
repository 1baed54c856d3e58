"""Trainers of several ranks in processes of their own on this machine, called together as the driver calls actors."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from service.contract.spec import ModelSpec
from workers.actors.trainer import Trainer

_DEADLINE_S = 120.0
_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(["tests.workers.tiny_model"])


class TrainerRanks:
    """All ranks of one trainer. A method called here is called on each of them."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def load(self, **settings: Any) -> None:
        """Make new trainers and load the model in them; the ranks of an earlier load part first."""
        self.call("close")
        for rank, pipe in enumerate(self._pipes):
            pipe.send(("make", settings | {"rank": rank, "num_ranks": len(self._pipes)}))
        self._answers()
        address = self.call("open_store", only=0)[0]
        self.call("load", address)

    def call(self, method: str, *args: Any, only: int | None = None, **kwargs: Any) -> list[Any]:
        """The ranks' answers; raises the first rank's exception, if any."""
        for pipe in self._pipes if only is None else [self._pipes[only]]:
            pipe.send((method, (args, kwargs)))
        return self._answers(only)

    def _answers(self, only: int | None = None) -> list[Any]:
        answers = []
        for pipe in self._pipes if only is None else [self._pipes[only]]:
            assert pipe.poll(_DEADLINE_S), "a rank does not answer"
            answers.append(pipe.recv())
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


@contextmanager
def trainer_ranks(num_ranks: int) -> Iterator[TrainerRanks]:
    """Starts the processes, and ends them."""
    pairs = [_FORK_SERVER.Pipe() for _ in range(num_ranks)]
    processes = [_FORK_SERVER.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pairs]
    for process, (_, theirs) in zip(processes, pairs, strict=True):
        process.start()
        theirs.close()
    try:
        yield TrainerRanks([ours for ours, _ in pairs])
    finally:
        for process in processes:
            process.kill()
            process.join()


def make_settings(model_folder: Path, *, dtype: Any = "float32", **model: Any) -> dict[str, Any]:
    """What `TrainerRanks.load` and `Trainer` need, for a tiny model on one thread."""
    spec = ModelSpec(path=str(model_folder), dtype=dtype, max_model_len=32, **model)
    return {"model": spec, "seed": 0, "num_cpus": 1, "num_gpus": 0}


def _serve(pipe: Connection) -> None:
    trainer: Trainer | None = None
    while True:
        method, payload = pipe.recv()
        try:
            if method == "make":
                trainer = Trainer(**payload)
                pipe.send(None)
                continue
            args, kwargs = payload
            answer = getattr(trainer, method)(*args, **kwargs) if trainer else None
            pipe.send(dict(answer) if method == "weights" and answer else answer)
        except Exception as error:
            pipe.send(error)
