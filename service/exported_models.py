"""The models that finished stages have exported: whose they are, which files they have, and the files themselves."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import StageResult
from service.contract.stages import StageName
from service.errors import NotFound
from service.storage.tables import Experiment, StageResultRow
from service.stored_rollouts.storage import from_storage

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of the model's folder; `name` may have folders in it."""

    name: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModelFile:
    """A file, open to be read once."""

    num_bytes: int
    file: BinaryIO

    def chunks(self) -> Iterator[bytes]:
        """Its bytes; closes it."""
        with self.file:
            while chunk := self.file.read(_CHUNK_BYTES):
                yield chunk


async def maker_of(session: AsyncSession, experiment_id: str, stage: StageName) -> str:
    """The experiment in whose folder the stage's model lies: another one of the project where the stage was reused.

    What a run says of paths is not believed: a folder follows from an experiment's id. Raises NotFound.
    """
    key = {"experiment_id": experiment_id, "stage": stage}
    row = await session.get(StageResultRow, key)
    if row is None:
        raise NotFound(
            f"experiment {experiment_id} has no finished stage {stage}; `sedray show {experiment_id}` lists them"
        )
    result = StageResult.model_validate(row.result)
    lineage: dict[str, Any] = result.detail.get("reused_from") or {}
    maker = str(lineage.get("experiment_id", experiment_id))
    wanted = select(Experiment.id, Experiment.project_id).where(Experiment.id.in_([experiment_id, maker]))
    projects = {found: project_id for found, project_id in await session.execute(wanted)}
    if maker not in projects or projects[maker] != projects[experiment_id]:
        raise NotFound(f"the model of {stage} was made by {maker}, which is not of this project")
    return maker


def model_folder(output_dir: str, stage: StageName) -> str:
    """Where a run exports a stage's model to."""
    return f"{output_dir.rstrip('/')}/models/{stage}"


async def list_files(output_dir: str, stage: StageName) -> list[ModelFile]:
    """All files, by name. Raises NotFound if the folder is gone, StorageUnavailable. Hold no session."""
    return await from_storage(lambda: _list(model_folder(output_dir, stage)))


async def open_file(output_dir: str, stage: StageName, name: str) -> OpenModelFile:
    """One of the files that `list_files` gives. Raises NotFound, StorageUnavailable. Hold no session."""
    return await from_storage(lambda: _open(model_folder(output_dir, stage), name))


def _list(folder: str) -> list[ModelFile]:
    filesystem, root = fsspec.core.url_to_fs(folder)
    filesystem.invalidate_cache()
    if not filesystem.isdir(root):
        raise NotFound(f"there is no model at {folder} any more; it was removed, or the storage has changed")
    prefix = root.rstrip("/") + "/"
    found = filesystem.find(root, detail=True)
    return sorted(
        (
            ModelFile(name=str(path).removeprefix(prefix), num_bytes=int(facts["size"]))
            for path, facts in found.items()
            if _lies_within(filesystem, root, str(path))
        ),
        key=lambda one: one.name,
    )


def _open(folder: str, name: str) -> OpenModelFile:
    filesystem, root = fsspec.core.url_to_fs(folder)
    path = f"{root.rstrip('/')}/{name}"
    outside = NotFound(f"the model has no file {name!r}; list its files to see which there are")
    if name.startswith("/") or ".." in PurePosixPath(name).parts or not _lies_within(filesystem, root, path):
        raise outside
    try:
        num_bytes = int(filesystem.size(path))
        return OpenModelFile(num_bytes=num_bytes, file=cast(BinaryIO, filesystem.open(path, "rb")))
    except (FileNotFoundError, IsADirectoryError, TypeError) as error:
        raise outside from error


def _lies_within(filesystem: Any, root: str, path: str) -> bool:
    """A link that a run has left must not open what lies elsewhere on the service's machine."""
    if "file" not in _protocols(filesystem):
        return True
    return os.path.realpath(path).startswith(os.path.realpath(root) + os.sep)


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
