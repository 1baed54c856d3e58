"""An output on its way out: all of it as a tar, or one of its files; piece by piece, never whole in memory."""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs

from service.errors import NotFound
from service.outputs.listing import Output, OutputFile, find_outputs
from service.stored_rollouts.storage import from_storage

_CHUNK_BYTES = 1 << 20
_BLOCK = 512
_END = b"\0" * (2 * _BLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Bytes to be sent once."""

    name: str
    num_bytes: int
    chunks: Callable[[], Iterator[bytes]]
    """Ends with an OSError where the storage fails, so that what is sent stays visibly short."""


async def open_archive(output_dir: str, output_id: str) -> Download:
    """An output as a tar whose files lie in one folder. Raises NotFound and StorageUnavailable. Hold no session."""
    output = await _find(output_dir, output_id)
    filesystem, _ = url_to_fs(output_dir)
    headers = [_header(output, file) for file in output.files]
    num_bytes = sum(len(header) + _padded(file.num_bytes) for header, file in zip(headers, output.files, strict=True))
    return Download(
        name=f"{output.id}.tar",
        num_bytes=num_bytes + len(_END),
        chunks=lambda: _tar(filesystem, output.files, headers),
    )


async def open_file(output_dir: str, output_id: str, path: str) -> Download:
    """One file of an output. Raises NotFound and StorageUnavailable. Hold no session."""
    output = await _find(output_dir, output_id)
    file = next((one for one in output.files if one.path == path), None)
    if file is None:
        raise NotFound(f"{output_id} has no file {path!r}; its files are {', '.join(one.path for one in output.files)}")
    filesystem, _ = url_to_fs(output_dir)
    return Download(name=path.rsplit("/", 1)[-1], num_bytes=file.num_bytes, chunks=lambda: _content(filesystem, file))


async def _find(output_dir: str, output_id: str) -> Output:
    found = await from_storage(lambda: find_outputs(output_dir))
    output = next((one for one in found if one.id == output_id), None)
    if output is None:
        known = f"there are {', '.join(one.id for one in found)}" if found else "there are none"
        raise NotFound(f"there is no checkpoint or model {output_id!r}; {known}")
    return output


def _header(output: Output, file: OutputFile) -> bytes:
    entry = tarfile.TarInfo(f"{output.id}/{file.path}")
    entry.size = file.num_bytes
    entry.mode = 0o644
    entry.mtime = int(output.modified_at.timestamp()) if output.modified_at else 0
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK) * _BLOCK


def _tar(filesystem: Any, files: Sequence[OutputFile], headers: Sequence[bytes]) -> Iterator[bytes]:
    for file, header in zip(files, headers, strict=True):
        yield header
        yield from _content(filesystem, file)
        yield b"\0" * (_padded(file.num_bytes) - file.num_bytes)
    yield _END


def _content(filesystem: Any, file: OutputFile) -> Iterator[bytes]:
    """Exactly as many bytes as were announced."""
    left = file.num_bytes
    with cast(BinaryIO, filesystem.open(file.location, "rb")) as source:
        while left and (chunk := source.read(min(_CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
    if left:
        raise OSError(f"{file.path} has become {left} bytes shorter while it was sent")
