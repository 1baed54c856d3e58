"""Weights over one NCCL group to several engines: vLLM's own code on both ends, and a real meeting of all ranks.

Only the GPU is missing: in the place of NCCL's communicator stands one that broadcasts through the store in which the
ranks have met, and CUDA's streams are left out.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from service.contract.spec import LoraSpec
from tests.workers.tiny_model import assert_same_weights, make_trainer, weights_of
from workers.actors.nccl_engines import rank_offsets
from workers.actors.nccl_sender import NcclSender
from workers.actors.trainer import Trainer

pytestmark = [
    pytest.mark.timeout(120),
    # vLLM's own imports trip over deprecations in torch and over its native types without a module.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

DEADLINE_S = 20.0


class StoreCommunicator:
    """As vLLM's `PyNcclCommunicator`."""

    made: list["StoreCommunicator"] = []
    on_broadcast: Callable[["StoreCommunicator", Tensor], None] = lambda communicator, tensor: None
    """A fault: called by every rank after its part."""

    def __init__(self, group: Any, device: Any) -> None:
        self.group, self.rank, self.world_size = group, group.rank, group.world_size
        self.destroyed = threading.Event()
        StoreCommunicator.made.append(self)

    def broadcast(self, tensor: Tensor, src: int, stream: Any = None) -> None:
        received = self.group.broadcast(tensor, src)
        if self.rank != src:
            tensor.copy_(received)
        StoreCommunicator.on_broadcast(self, tensor)

    def destroy(self) -> None:
        self.destroyed.set()


class Model:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]]) -> set[str]:
        taken = {name: tensor.clone() for name, tensor in tensors}
        self.tensors |= taken
        return set(taken)


class ThreadEngines:
    """As `nccl_engines.Engines`: each engine is a list of vLLM workers, which work side by side."""

    def __init__(self, num_workers: Sequence[int]) -> None:
        from workers.actors.vllm_weight_transfer import SedrayWeightTransferEngine

        self.num_workers = num_workers
        self.asked: list[str] = []
        self.refuses = ""
        self.models: list[Model] = []
        self.engines: list[list[Any]] = []
        for size in num_workers:
            workers = []
            for rank in range(size):
                parallel = SimpleNamespace(data_parallel_index=0, world_size=size, rank=rank)
                self.models.append(Model())
                workers.append(
                    SedrayWeightTransferEngine(
                        None,
                        SimpleNamespace(parallel_config=parallel, model_config=None),
                        torch.device("cpu"),
                        self.models[-1],
                    )
                )
            self.engines.append(workers)

    def ask(self, method: str, arguments: Sequence[Mapping[str, Any]], *, deadline_s: float) -> None:
        self.asked.append(method)
        if method == self.refuses:
            raise RuntimeError("not now")
        calls = [(worker, own) for workers, own in zip(self.engines, arguments, strict=True) for worker in workers]
        pool = ThreadPoolExecutor(len(calls))
        try:
            for future in [pool.submit(_call, worker, method, own) for worker, own in calls]:
                future.result(deadline_s)
        finally:
            pool.shutdown(wait=False)


def _call(worker: Any, method: str, own: Mapping[str, Any]) -> None:
    match method:
        case "join_transfer_group":
            worker.init_transfer_engine(worker.parse_init_info(dict(own["init_info"])))
        case "receive_weights":
            worker.update_weights(dict(own["payload"]))


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """vLLM's packed broadcast as it is, but for the device."""
    from vllm.distributed.device_communicators import pynccl
    from vllm.distributed.weight_transfer import packed_tensor

    streams = [SimpleNamespace(synchronize=lambda: None)] * 2
    monkeypatch.setattr(pynccl, "PyNcclCommunicator", StoreCommunicator)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(packed_tensor, "_get_streams", lambda device, count: streams)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(StoreCommunicator, "made", [])
    yield


def a_sender(trainer: Trainer) -> NcclSender:
    return NcclSender(trainer._loaded(), "127.0.0.1")


@pytest.mark.parametrize(("num_workers", "offsets"), [([1], [1]), ([1, 1, 1], [1, 2, 3]), ([2, 1, 4], [1, 3, 4])])
def test_each_engine_begins_behind_the_workers_of_those_before_it(num_workers: list[int], offsets: list[int]) -> None:
    assert rank_offsets(num_workers) == offsets


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)])
def test_two_engines_in_one_group_have_ranks_of_their_own_and_both_receive_everything(
    model_folder: Path, lora: LoraSpec | None
) -> None:
    trainer, engines = make_trainer(model_folder, dtype="bfloat16", lora=lora), ThreadEngines([2, 1])
    sender = a_sender(trainer)
    assert sender.join(engines, ["a", "b"], DEADLINE_S) is None
    assert sorted(one.rank for one in StoreCommunicator.made) == [0, 1, 2, 3]
    assert {one.world_size for one in StoreCommunicator.made} == {4}
    for with_digests in (True, False):
        assert sender.send(DEADLINE_S, with_digests=with_digests).failure is None
        for model in engines.models:
            assert_same_weights(model.tensors, weights_of(trainer))
    assert engines.asked[1:5] == ["begin_update", "receive_weights", "receive_weights", "begin_update"]
    sender.close()


def test_a_tensor_that_changes_on_the_way_to_one_engine_is_found_by_its_digest(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(communicator: StoreCommunicator, tensor: Tensor) -> None:
        if communicator.rank == 2:
            tensor[-1] ^= 1

    monkeypatch.setattr(StoreCommunicator, "on_broadcast", staticmethod(corrupt))
    sender = a_sender(make_trainer(model_folder))
    assert sender.join(ThreadEngines([1, 1]), ["a", "b"], DEADLINE_S) is None
    failure = sender.send(DEADLINE_S, with_digests=True).failure
    assert failure is not None and "arrived otherwise than the trainer sent them" in failure


def test_a_group_in_which_an_engine_failed_is_torn_down_and_another_one_works(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(model_folder)
    sender, engines = a_sender(trainer), ThreadEngines([1, 1])
    assert sender.join(engines, ["a", "b"], DEADLINE_S) is None
    engines.models[1].load_weights = lambda tensors: set()  # type: ignore[method-assign]
    failure = sender.send(DEADLINE_S, with_digests=False).failure
    assert failure is not None and "the model has no place for" in failure
    first = StoreCommunicator.made[:]
    assert next(one for one in first if one.rank == 0).destroyed.is_set()
    assert sender.send(DEADLINE_S, with_digests=False).failure == "there is no transfer group"
    fresh = ThreadEngines([1])
    assert sender.join(fresh, ["c"], DEADLINE_S) is None
    assert sender.join(fresh, ["c"], DEADLINE_S) is None and fresh.asked.count("join_transfer_group") == 1
    assert sender.send(DEADLINE_S, with_digests=False).failure is None
    assert_same_weights(fresh.models[0].tensors, weights_of(trainer))


@pytest.mark.parametrize("has_group", [True, False])
def test_a_pass_is_gone_through_although_nothing_is_sent(model_folder: Path, has_group: bool) -> None:
    """Otherwise the other ranks, which gather with this one, would wait for it."""
    sender, engines = a_sender(make_trainer(model_folder)), ThreadEngines([1])
    if has_group:
        assert sender.join(engines, ["a"], DEADLINE_S) is None
        engines.refuses = "begin_update"
    assert sender.send(DEADLINE_S, with_digests=True).failure is not None
    assert list(sender._source) == [] and len(sender._source.digests or {}) == len(sender._source.metadata())


def test_a_trainer_that_hangs_in_a_broadcast_is_freed_when_an_engine_is_lost(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_or_die(communicator: StoreCommunicator, tensor: Tensor) -> None:
        if communicator.rank:
            raise RuntimeError("the engine is gone")
        assert communicator.destroyed.wait(DEADLINE_S)
        raise RuntimeError("aborted")

    monkeypatch.setattr("workers.actors.nccl_sender._GRACE_S", 0.5)
    monkeypatch.setattr(StoreCommunicator, "on_broadcast", staticmethod(hang_or_die))
    sender = a_sender(make_trainer(model_folder))
    assert sender.join(ThreadEngines([1]), ["a", "b"], DEADLINE_S) is None
    failure = sender.send(DEADLINE_S, with_digests=False).failure
    assert failure == "RuntimeError: the engine is gone"


def test_a_send_ends_at_its_deadline(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(communicator: StoreCommunicator, tensor: Tensor) -> None:
        assert next(one for one in StoreCommunicator.made if one.rank == 0).destroyed.wait(DEADLINE_S)
        raise RuntimeError("aborted")

    monkeypatch.setattr(StoreCommunicator, "on_broadcast", staticmethod(hang))
    sender = a_sender(make_trainer(model_folder))
    assert sender.join(ThreadEngines([1]), ["a", "b"], DEADLINE_S) is None
    assert sender.send(0.5, with_digests=False).failure in ("not done within 0 s", "RuntimeError: aborted")
