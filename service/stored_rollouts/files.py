"""The rollouts that an experiment keeps in its folder: which steps there are, and their files as they lie there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import fsspec

from service.contract.stored_rollouts import (
    StoreName,
    step_of_stored_rollouts,
    stored_rollouts_folder,
    stored_rollouts_name,
)
from service.errors import NotFound
from service.stored_rollouts.storage import from_storage

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStep:
    """One step's file."""

    step: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStep:
    """One step's file, open to be read once."""

    name: str
    num_bytes: int
    file: BinaryIO

    def chunks(self) -> Iterator[bytes]:
        """Its bytes; closes it."""
        with self.file:
            while chunk := self.file.read(_CHUNK_BYTES):
                yield chunk


async def list_steps(output_dir: str) -> list[StoredStep]:
    """The stored steps, oldest first; none where nothing is stored. Raises StorageUnavailable. Hold no session."""
    return await from_storage(lambda: find_steps(output_dir, "whole"))


async def open_step(output_dir: str, step: int) -> OpenStep:
    """Raises NotFound if the step is not stored, StorageUnavailable if the storage does not answer. Hold no session."""
    return await from_storage(lambda: _open(output_dir, step))


def find_steps(output_dir: str, store: StoreName) -> list[StoredStep]:
    """The steps of one store, oldest first. Blocks; errors of the storage come through."""
    filesystem, folder = fsspec.core.url_to_fs(stored_rollouts_folder(output_dir, store))
    filesystem.invalidate_cache()
    if not filesystem.isdir(folder):
        return []
    entries = {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in filesystem.ls(folder, detail=True)}
    steps = ((step_of_stored_rollouts(name), size) for name, size in entries.items())
    return [StoredStep(step=step, num_bytes=size) for step, size in sorted((s, b) for s, b in steps if s is not None)]


def _open(output_dir: str, step: int) -> OpenStep:
    name = stored_rollouts_name(step)
    filesystem, path = fsspec.core.url_to_fs(f"{stored_rollouts_folder(output_dir, 'whole')}/{name}")
    try:
        num_bytes = int(filesystem.size(path))
        return OpenStep(name=name, num_bytes=num_bytes, file=cast(BinaryIO, filesystem.open(path, "rb")))
    except FileNotFoundError as error:
        raise NotFound(f"the rollouts of step {step} are not stored; rl.rollout_store_steps says which are") from error
