"""The files of shipped lines: gzipped JSON lines under the experiment's outputs, written whole or not at all.

Everything here waits for the storage; no session may be open meanwhile.
"""

import asyncio
import gzip
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.errors import StorageUnavailable

STORAGE_S = 30.0
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedLine:
    """One line of the log, wherever it lies."""

    id: int
    ts: datetime
    attempt_number: int
    source: str
    text: str


def chunk_name(first_id: int, last_id: int) -> str:
    """Names sort as their lines do."""
    return f"{first_id:019d}-{last_id:019d}.jsonl.gz"


async def write_chunk(output_dir: str, name: str, lines: Sequence[ArchivedLine]) -> int:
    """Writes the lines; returns the file's size. Written again it is the same file. Raises StorageUnavailable."""
    content = gzip.compress(_encode(lines), compresslevel=6, mtime=0)
    await from_storage(lambda: _write(output_dir, name, content))
    return len(content)


async def read_chunk(output_dir: str, name: str) -> list[ArchivedLine]:
    """The lines of one file. Raises StorageUnavailable, also where the file is gone."""
    return await from_storage(lambda: _decode(_read(output_dir, name)))


async def remove_chunks(output_dir: str, names: Iterable[str]) -> None:
    """Deletes the files; one that is gone already is fine. Raises StorageUnavailable."""
    await from_storage(lambda: _remove(output_dir, names))


async def from_storage(work: Callable[[], Found]) -> Found:
    """What `work` returns, in a thread and within a deadline; every failure is StorageUnavailable."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(work), STORAGE_S)
    except (OSError, EOFError, TimeoutError, ImportError, ValueError, KeyError) as error:
        why = f"no answer within {STORAGE_S:.0f} s" if isinstance(error, TimeoutError) else f"{error}"
        raise StorageUnavailable(
            f"the storage of the experiments' outputs does not do what it should: {why}; try again in a moment"
        ) from error


def _folder(output_dir: str) -> str:
    return f"{output_dir.rstrip('/')}/logs"


def _write(output_dir: str, name: str, content: bytes) -> None:
    filesystem, folder = url_to_fs(_folder(output_dir))
    filesystem.makedirs(folder, exist_ok=True)
    # An object store shows a file only whole; a folder gets it under another name first.
    aside = f"{folder}/.{name}.part"
    filesystem.pipe_file(aside, content)
    if isinstance(filesystem, LocalFileSystem):
        # The lines leave the database next: the disk has to have them first.
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
    filesystem.mv(aside, f"{folder}/{name}")


def _read(output_dir: str, name: str) -> bytes:
    filesystem, folder = url_to_fs(_folder(output_dir))
    content: bytes = filesystem.cat_file(f"{folder}/{name}")
    return content


def _remove(output_dir: str, names: Iterable[str]) -> None:
    filesystem, folder = url_to_fs(_folder(output_dir))
    for name in names:
        with suppress(FileNotFoundError):
            filesystem.rm_file(f"{folder}/{name}")


def _encode(lines: Iterable[ArchivedLine]) -> bytes:
    rows = ({**asdict(line), "ts": line.ts.isoformat()} for line in lines)
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def _decode(content: bytes) -> list[ArchivedLine]:
    # Not splitlines: a log line may hold other separators.
    rows = [json.loads(row) for row in gzip.decompress(content).decode().split("\n") if row]
    return [ArchivedLine(**{**row, "ts": datetime.fromisoformat(row["ts"])}) for row in rows]
