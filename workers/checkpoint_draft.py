"""Writing of checkpoints, and of other folders, so that a crash at any moment leaves the old state or the new one.

    begin_draft ──> write ... ──> commit        a draft may be sent to other processes, each writes files of its own
               └──────────────> discard

On a local or mounted file system a draft is a folder aside, whose files are synced and which is renamed at the end.
Elsewhere (any fsspec URL) the objects are uploaded to their place and the manifest comes last.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast
from uuid import uuid4

import fsspec

from workers.checkpoints import ASIDE, MANIFEST, FileEntry, is_local, manifest_bytes

FileContent: TypeAlias = bytes | Callable[[BinaryIO], None]
"""The bytes of a file, or a function that writes them to a stream (forward only, no seek)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDraft:
    """A checkpoint that does not count yet. Its folder must be the same place for all who write."""

    root: str
    name: str
    folder: str
    """Where the files go for now."""

    def write(self, file_name: str, content: FileContent) -> FileEntry:
        """Write one file, synced; returns what the manifest must say about it. Raises OSError."""
        assert file_name != MANIFEST and "/" not in file_name, "a name within the folder"
        if is_local(self.root):
            with Path(self.folder, file_name).open("wb") as file:
                entry = _write(file, content)
                file.flush()
                os.fsync(file.fileno())
            return entry
        filesystem, path = fsspec.core.url_to_fs(f"{self.folder}/{file_name}")
        with filesystem.open(path, "wb") as stream:
            return _write(stream, content)

    def commit(self, files: Mapping[str, FileEntry], facts: dict[str, Any]) -> str:
        """Make it a checkpoint, in the place of an older one of its name; returns its folder or URL.

        `files` are all that were written. `facts` must be JSON without NaN; the manifest's digest covers them. Only one
        process commits, when all have written.
        """
        manifest = manifest_bytes(self.name, files, facts)
        filesystem, path = fsspec.core.url_to_fs(self.root)
        if is_local(self.root):
            aside = Path(self.folder)
            (aside / MANIFEST).write_bytes(manifest)
            _sync(aside / MANIFEST)
            _put_in_place(aside, Path(path) / self.name)
        else:
            filesystem.pipe_file(f"{path}/{self.name}/{MANIFEST}", manifest)
        return f"{self.root.rstrip('/')}/{self.name}"

    def discard(self) -> None:
        """Remove what was written aside; what was uploaded stays, and does not count without a manifest.

        A checkpoint that has been committed is not touched.
        """
        if is_local(self.root):
            shutil.rmtree(self.folder, ignore_errors=True)


def begin_draft(root: str, name: str) -> CheckpointDraft:
    """A place for the files of a checkpoint below `root`.

    What an interrupted writer of the same name left is removed, so only one may be at work.
    """
    filesystem, path = fsspec.core.url_to_fs(root)
    if is_local(root):
        return CheckpointDraft(root=root, name=name, folder=str(_new_folder_aside(Path(path) / name)))
    folder = f"{path}/{name}"
    # Without its manifest an older checkpoint of this name is gone before the first of its objects is replaced.
    if filesystem.exists(f"{folder}/{MANIFEST}"):
        filesystem.rm_file(f"{folder}/{MANIFEST}")
    filesystem.makedirs(folder, exist_ok=True)
    return CheckpointDraft(root=root, name=name, folder=f"{root.rstrip('/')}/{name}")


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Yield an empty local folder that takes the place of `target`, synced, when the block ends without an error.

    Readers see the old folder or the whole new one. What an interrupted writer of the same target left is removed, so
    only one writer may be at work.
    """
    aside = _new_folder_aside(target)
    try:
        yield aside
        for path in aside.rglob("*"):
            _sync(path)
        _put_in_place(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class _HashingStream:
    """Passes writes on while it hashes and counts them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = sha256()
        self._num_bytes = 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self._num_bytes += memoryview(data).nbytes
        self._stream.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        self._stream.flush()

    def entry(self) -> FileEntry:
        return {"sha256": self._digest.hexdigest(), "num_bytes": self._num_bytes}


def _write(file: BinaryIO, content: FileContent) -> FileEntry:
    stream = _HashingStream(file)
    if isinstance(content, bytes):
        stream.write(content)
    else:
        content(cast(BinaryIO, stream))
    return stream.entry()


def _new_folder_aside(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f"{ASIDE}{target.name}-*"):
        shutil.rmtree(leftover)
    aside = target.parent / f"{ASIDE}{target.name}-{uuid4().hex}"
    aside.mkdir()
    return aside


def _put_in_place(aside: Path, target: Path) -> None:
    """Rename a folder whose files are synced; an older one of the target's name gives way."""
    replaced = target.parent / f"{ASIDE}{target.name}-{uuid4().hex}"
    _sync(aside)
    if target.exists():
        target.rename(replaced)
    aside.rename(target)
    _sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
