"""Checkpoints and exported models below an experiment's folder, wherever that lies."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from re import fullmatch
from typing import Any, Literal

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.stored_rollouts.storage import from_storage

OutputKind = Literal["checkpoint", "model"]
_STAGES = ("sft", "rl")
_STEP = r"step-(\d{8,})"
_MANIFEST = "manifest.json"
"""Written last: a checkpoint without it is not whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """One file of an output."""

    path: str
    """Within the output, parts separated by `/`."""
    num_bytes: int
    location: str
    """As the file system names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A checkpoint or an exported model."""

    id: str
    kind: OutputKind
    stage: str
    step: int | None
    """Of a checkpoint."""
    is_whole: bool
    """Whether its writer has come to the end; `verify` on reading compares every byte."""
    modified_at: datetime | None
    files: list[OutputFile]

    @property
    def num_bytes(self) -> int:
        """Of all its files."""
        return sum(file.num_bytes for file in self.files)


async def list_outputs(output_dir: str) -> list[Output]:
    """In the order of stages and steps, each stage's model last. Raises StorageUnavailable. Hold no session."""
    return await from_storage(lambda: find_outputs(output_dir))


def find_outputs(output_dir: str) -> list[Output]:
    """The same. Blocks; errors of the storage come through."""
    filesystem, root = url_to_fs(output_dir)
    filesystem.invalidate_cache()
    _refuse_missing_root(filesystem, root)
    return [output for stage in _STAGES for output in _of_stage(filesystem, root.rstrip("/"), stage)]


def _refuse_missing_root(filesystem: Any, root: str) -> None:
    """An experiment without a folder has no outputs yet; without the folder of all experiments nothing is known."""
    if isinstance(filesystem, LocalFileSystem) and not os.path.isdir(os.path.dirname(root)):
        raise OSError(f"the folder {os.path.dirname(root)} is not on the machine of the API")


def _of_stage(filesystem: Any, root: str, stage: str) -> Iterator[Output]:
    folder = f"{root}/checkpoints/{stage}"
    names = sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in _entries(filesystem, folder))
    for name in names:
        if found := fullmatch(_STEP, name):
            files, at = _files(filesystem, root, f"{folder}/{name}")
            is_whole = any(file.path == _MANIFEST for file in files)
            yield _output(stage, name, "checkpoint", int(found[1]), is_whole, at, files)
    files, at = _files(filesystem, root, f"{root}/models/{stage}")
    if files:
        # An exported model appears as a whole.
        yield _output(stage, "model", "model", None, True, at, files)


def _output(
    stage: str,
    name: str,
    kind: OutputKind,
    step: int | None,
    is_whole: bool,
    modified_at: datetime | None,
    files: list[OutputFile],
) -> Output:
    return Output(
        id=f"{stage}.{name}",
        kind=kind,
        stage=stage,
        step=step,
        is_whole=is_whole,
        modified_at=modified_at,
        files=files,
    )


def _entries(filesystem: Any, folder: str) -> list[dict[str, Any]]:
    return list(filesystem.ls(folder, detail=True)) if filesystem.isdir(folder) else []


def _files(filesystem: Any, root: str, folder: str) -> tuple[list[OutputFile], datetime | None]:
    """The files below a folder, names sorted, and when the newest was written."""
    if not filesystem.isdir(folder):
        return [], None
    found: list[OutputFile] = []
    newest: datetime | None = None
    for location, entry in sorted(filesystem.find(folder, detail=True).items()):
        if entry["type"] != "file" or not _is_inside(filesystem, root, location):
            continue
        path = location[len(folder) :].lstrip("/")
        found.append(OutputFile(path=path, num_bytes=int(entry["size"] or 0), location=location))
        written = _written_at(entry)
        newest = max(newest or written, written) if written else newest
    return found, newest


def _is_inside(filesystem: Any, root: str, location: str) -> bool:
    """Code of a run may have put a link there, which would lead out of the experiment's folder."""
    if not isinstance(filesystem, LocalFileSystem):
        return True
    return os.path.realpath(location).startswith(os.path.realpath(root) + os.sep)


def _written_at(entry: dict[str, Any]) -> datetime | None:
    at = entry.get("mtime") or entry.get("LastModified") or entry.get("updated")
    if isinstance(at, int | float):
        return datetime.fromtimestamp(at, UTC)
    return at if isinstance(at, datetime) else None
