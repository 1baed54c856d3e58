"""What files and folders hold, as digests that do not depend on where they lie. Blocks; runs in a thread.

stamp     names, sizes and times of change: tells that a digest made before still holds
digest    SHA-256 over (name, size, SHA-256) of every file
changed   the newest time at which anything in it was changed
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_CHUNK_BYTES = 1 << 20
_MOST_FILES = 10_000
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


class Unreadable(Exception):
    """The content cannot be told: gone, refused, or of a store that does not say when it was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """How a file or folder looks without reading it."""

    text: str
    changed_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    name: str
    """Below the folder; empty for a single file, so that its name does not count."""
    path: str
    size: int
    mark: str
    changed_at: float


def read_stamp(path: str) -> Stamp:
    """Raises Unreadable."""
    try:
        files = list(_files(path))
        changed_at = max(file.changed_at for file in files)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from error
    text = "\n".join(f"{file.name}\t{file.size}\t{file.mark}" for file in files)
    return Stamp(text=sha256(text.encode()).hexdigest(), changed_at=changed_at)


def read_digest(path: str) -> str:
    """Reads everything. Raises Unreadable."""
    whole = sha256()
    try:
        filesystem, _ = fsspec.core.url_to_fs(path)
        for file in _files(path):
            whole.update(f"{file.name}\t{file.size}\t{_sha256_of(filesystem, file.path)}\n".encode())
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from error
    return whole.hexdigest()


def _files(path: str) -> Iterator[_File]:
    """In the order of their names; what is hidden, and read-me files, have no part in what a model or data set is."""
    filesystem, root = fsspec.core.url_to_fs(path)
    if filesystem.isfile(root):
        yield _described(filesystem, "", root, filesystem.info(root))
        return
    found: dict[str, Any] = filesystem.find(root, detail=True)
    if not found:
        raise FileNotFoundError("no file is there")
    if len(found) > _MOST_FILES:
        raise ValueError(f"more than {_MOST_FILES} files")
    for place in sorted(found):
        name = place.removeprefix(root.rstrip("/")).lstrip("/")
        if not any(part.startswith(".") for part in name.split("/")) and not name.lower().endswith(".md"):
            yield _described(filesystem, name, place, found[place])


def _described(filesystem: Any, name: str, place: str, info: dict[str, Any]) -> _File:
    if isinstance(filesystem, LocalFileSystem):
        # The time of the last change of the file's record cannot be set back, that of its content can.
        facts = os.stat(place)
        mark = f"{facts.st_mtime_ns} {facts.st_ctime_ns}"
        moment = max(facts.st_mtime, facts.st_ctime)
        return _File(name=name, path=place, size=facts.st_size, mark=mark, changed_at=moment)
    told = _moment(info)
    if told is None:
        raise ValueError(f"the store of {place} does not say when it was changed")
    mark = f"{told} {info.get('ETag') or info.get('etag') or ''}"
    return _File(name=name, path=place, size=int(info["size"]), mark=mark, changed_at=told)


def _moment(info: dict[str, Any]) -> float | None:
    """Stores call the time of the last change by different names, and give it as text, as a time or as a number."""
    found = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    if isinstance(found, datetime):
        found = found.timestamp()
    return float(found) if isinstance(found, int | float) else None


def _sha256_of(filesystem: Any, place: str) -> str:
    digest = sha256()
    with filesystem.open(place, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
