"""Where weights lie for engines to take them, and what a group over NCCL does when it fails."""

from pathlib import Path
from typing import Any

import pytest

from tests.workers.fake_weight_sync import FakePool, FakeTrainer, a_member
from workers.actors.vllm_adapter import EngineFailed
from workers.stages import weight_transports
from workers.stages.nccl_transport import NcclTransport
from workers.stages.weight_transports import FileShelf, Parcel, ShelfTransport, StoreShelf
from workers.weight_sync import WeightFolder, WeightSyncFailed


def a_parcel(version: int) -> Parcel:
    return Parcel(version=version, probe=((3, 4),), with_digests=False, deadline_s=60.0)


def a_file_shelf(trainer: FakeTrainer, folder: Path, *, here: bool = True) -> FileShelf:
    return FileShelf(trainer, WeightFolder(folder=folder), "attempt", lambda member: here or member.number == 0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_file_serves_all_engines_and_those_that_join_until_the_next_one(tmp_path: Path) -> None:
    trainer, pool = FakeTrainer(), FakePool(2)
    transport = ShelfTransport(a_file_shelf(trainer, tmp_path))
    assert len(transport.deliver(a_parcel(1), pool.members()).calls) == 2
    late = a_member(2)
    transport.hand_over(late)
    orders = [engine.orders[-1] for engine in (*pool.engines, late.engine)]
    assert {order.path for order, _ in orders} == {str(tmp_path / "policy-00000001.safetensors")}
    assert names(tmp_path) == ["policy-00000001.safetensors"]
    transport.deliver(a_parcel(2), pool.members())
    assert names(tmp_path) == ["policy-00000002.safetensors"]


def test_the_file_before_is_gone_before_the_next_is_written(tmp_path: Path) -> None:
    trainer = FakeTrainer()
    shelf = a_file_shelf(trainer, tmp_path)
    shelf.begin(a_parcel(1))
    trainer.write_error = OSError(28, "No space left on device")
    shelf.begin(a_parcel(2))
    assert names(tmp_path) == []
    with pytest.raises(WeightSyncFailed, match="No space left on device; make room there"):
        shelf.settle()


def test_an_engine_on_another_machine_gets_the_content_which_is_put_into_the_store_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[bytes] = []
    monkeypatch.setattr(weight_transports, "put", lambda value: put.append(value.tobytes()) or "reference")
    pool = FakePool(3)
    ShelfTransport(a_file_shelf(FakeTrainer(), tmp_path, here=False)).deliver(a_parcel(1), pool.members())
    near, far, farther = (engine.orders[0] for engine in pool.engines)
    assert near[1] is None and far[1] == farther[1] == "reference" and put == [b"weights"]
    # One name, so that engines of the same machine share the file that it becomes.
    assert far[0].path == farther[0].path and "/" not in far[0].path and far[0].landing == "attempt"


def test_an_object_serves_all_engines_under_a_name_of_its_own() -> None:
    trainer, pool = FakeTrainer(), FakePool(2)
    transport = ShelfTransport(StoreShelf(trainer, "attempt"))
    transport.deliver(a_parcel(1), pool.members())
    transport.deliver(a_parcel(1), pool.members())
    transport.hand_over(late := a_member(2))
    first, again = (pool.engines[0].orders[index] for index in (0, 1))
    assert (first[1], again[1]) == ("reference 1", "reference 2")
    assert first[0].path != again[0].path
    late_engine: Any = late.engine
    assert late_engine.orders == [again] == [pool.engines[1].orders[1]]


def test_a_group_lasts_as_long_as_its_engines_do(tmp_path: Path) -> None:
    trainer, pool = FakeTrainer(), FakePool(2)
    transport = NcclTransport(trainer, a_file_shelf(trainer, tmp_path))
    for version in (1, 2):
        assert len(transport.deliver(a_parcel(version), pool.members()).calls) == 2
        transport.keep()
    pool.ready[1] = a_member(1)  # another one in its place
    transport.deliver(a_parcel(3), pool.members())
    assert trainer.groups == [["actor 0", "actor 1"]] * 2
    assert trainer.log == [
        "send",
        "write policy-00000001.safetensors",
        "send",
        "write policy-00000002.safetensors",
        "send",
    ]


def test_what_joins_between_two_broadcasts_takes_the_copy(tmp_path: Path) -> None:
    trainer, pool = FakeTrainer(), FakePool(1)
    transport = NcclTransport(trainer, a_file_shelf(trainer, tmp_path))
    transport.deliver(a_parcel(1), pool.members())
    transport.keep()
    late: Any = a_member(1)
    transport.hand_over(late)
    assert late.engine.orders[0][0].version == 1


@pytest.mark.parametrize("where", ["join", "send"])
def test_a_group_that_fails_takes_all_its_engines_along_and_is_never_used_again(tmp_path: Path, where: str) -> None:
    trainer, pool = FakeTrainer(), FakePool(2)
    transport = NcclTransport(trainer, a_file_shelf(trainer, tmp_path))
    trainer.join_failure = "no meeting" if where == "join" else None
    trainer.send_failures = ["ActorDied: killed"]
    delivery = transport.deliver(a_parcel(1), pool.members())
    assert delivery.calls == () and [member.number for member, _ in delivery.failures] == [0, 1]
    assert all(isinstance(error, EngineFailed) for _, error in delivery.failures)
    trainer.join_failure, trainer.send_failures = None, []
    assert len(transport.deliver(a_parcel(2), pool.members()).calls) == 2
    assert len(trainer.groups) == 2


def test_without_engines_only_the_copy_is_made(tmp_path: Path) -> None:
    trainer = FakeTrainer()
    transport = NcclTransport(trainer, a_file_shelf(trainer, tmp_path))
    assert transport.deliver(a_parcel(1), []).calls == ()
    transport.keep()
    assert trainer.log == ["write policy-00000001.safetensors"] and trainer.groups == []
