"""Which way the weights of an attempt take, and what has to stand for it."""

from contextlib import ExitStack
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.contract.messages import StartReply
from workers.config_error import ConfigError
from workers.placement import Placement
from workers.stages.engine_roster import Member
from workers.stages.nccl_transport import NcclTransport
from workers.stages.remote_actors import RemoteTrainer
from workers.stages.weight_transports import FileShelf, Shelf, ShelfTransport, StoreShelf, Transport
from workers.weight_sync import weight_folder


def open_transport(orders: StartReply, placement: Placement, trainer: RemoteTrainer, cleanup: ExitStack) -> Transport:
    """The transport that the specification asks for; `cleanup` removes what it leaves behind.

    Raises ConfigError if it cannot work where the actors have been placed.
    """
    transport = orders.spec.weight_sync.transport
    match transport:
        case "shared_memory" if not placement.same_node:
            raise ConfigError(
                "rl.weight_sync.transport shared_memory: driver, trainer and rollout engines are not on one machine; "
                "take auto, or nodes that hold a whole experiment"
            )
        case "file":
            root = _shared_root(orders.output_dir)
            folder = cleanup.enter_context(weight_folder(orders.attempt_id, root=root))
            return ShelfTransport(FileShelf(trainer, folder, orders.attempt_id, lambda member: True))
        case "object_store":
            return ShelfTransport(StoreShelf(trainer, orders.attempt_id))
        case "nccl":
            return NcclTransport(trainer, _shelf(orders, placement, trainer, cleanup))
        case "auto" | "shared_memory":
            return ShelfTransport(_shelf(orders, placement, trainer, cleanup))


def _shelf(orders: StartReply, placement: Placement, trainer: RemoteTrainer, cleanup: ExitStack) -> Shelf:
    """In the memory of this machine if the trainer is here, else in Ray's store."""
    if not placement.trainer_is_here:
        return StoreShelf(trainer, orders.attempt_id)

    def is_here(member: Member) -> bool:
        return placement.shares_memory(member.number)

    return FileShelf(trainer, cleanup.enter_context(weight_folder(orders.attempt_id)), orders.attempt_id, is_here)


def _shared_root(output_dir: str) -> Path:
    filesystem, path = url_to_fs(output_dir)
    if not isinstance(filesystem, LocalFileSystem):
        raise ConfigError(
            f"rl.weight_sync.transport file: {output_dir} is no folder that all machines could share; take object_store"
        )
    root = Path(path) / "weights"
    root.mkdir(parents=True, exist_ok=True)
    return root
