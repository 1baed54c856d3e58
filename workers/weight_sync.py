"""How weights travel from the trainer to the rollout engine of the same machine: as a safetensors file in memory.

    driver                        trainer                       rollout engine
    weight_folder(attempt) ─┐
      folder.path(version) ─┼──> write_weights(path)
                            │      └─> manifest ──────────────> WeightSource(path, manifest)
      folder.discard(path) <┼────────────────────────────────── checked, loaded, closed
    end of the block ───────┘ the folder and all in it are gone

Standard library only: every process of a run can import this module, and none needs torch to judge a file.
"""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Protocol

SHARED_MEMORY = Path("/dev/shm")
BACKEND = "sedray_shared_memory"
"""The name under which vLLM knows our way of taking weights."""

_FOLDER_PREFIX = "sedray-weights-"
_ABANDONED_AFTER_S = 60.0
"""Age from which an unlocked folder counts as abandoned; a younger one may be about to be locked."""
_MAX_HEADER_BYTES = 100_000_000
"""What the safetensors format allows a header to take."""


class WeightSyncFailed(Exception):
    """The rollout engine does not hold the weights that it was told to take."""


class WeightManifest(Protocol):
    """What the writer of a weight file says about it."""

    @property
    def num_tensors(self) -> int:
        """Tensors in the file."""

    @property
    def num_bytes(self) -> int:
        """Size of the file."""

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """A weight file and what its writer says about it."""

    path: str
    manifest: WeightManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFolder:
    """Where the weight files of one attempt lie."""

    folder: Path

    def path(self, version: int) -> str:
        """Where the weights of a policy version belong; nothing is created."""
        return str(self.folder / f"policy-{version:08d}.safetensors")

    def discard(self, path: str) -> None:
        """Free the memory of a file that has been loaded; one that is gone already is no error."""
        Path(path).unlink(missing_ok=True)


@contextmanager
def weight_folder(attempt_id: str, *, root: Path | None = None) -> Iterator[WeightFolder]:
    """A folder of mode 0700 for one attempt's weight files, removed at the end whatever happens.

    It lies in shared memory, or in the temporary folder where there is none; `root` puts it elsewhere. A process that
    is killed cannot remove its folder, so each call first removes those whose owner is gone: an owner holds a lock on
    its folder, and the kernel lifts the lock when the process ends.

    Raises OSError if no folder can be made.
    """
    parent = root or _default_root()
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{attempt_id}-", dir=parent))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield WeightFolder(folder=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def check_source(source: WeightSource, expected_shapes: dict[str, tuple[int, ...]]) -> None:
    """Make sure that a file is the one its manifest describes and holds exactly the tensors that the engine expects.

    vLLM passes over names that it doesn't know and keeps the old tensors of layers that received nothing; so names and
    shapes are compared here, before the engine is touched. Reads the file once for its checksum.

    Raises WeightSyncFailed with what differs.
    """
    path, manifest = Path(source.path), source.manifest
    try:
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            checksum = file_digest(file, "sha256").hexdigest()
        shapes = tensor_shapes(path)
    except (OSError, ValueError) as error:
        raise WeightSyncFailed(
            f"weight file {path} cannot be read: {error}; trainer and rollout engine must share a machine, and the "
            "file must live until the update has returned"
        ) from error
    said = (manifest.num_tensors, manifest.num_bytes, manifest.checksum)
    found = (len(shapes), num_bytes, checksum)
    if said != found:
        raise WeightSyncFailed(
            f"weight file {path} is not the one announced: tensors, bytes and SHA-256 are {found}, the manifest "
            f"says {said}; it was written twice or not to its end"
        )
    if shapes != expected_shapes:
        raise WeightSyncFailed(f"weight file {path} does not fit the model: {_difference(shapes, expected_shapes)}")


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, read from its header alone.

    The file begins with the header's length (8 bytes, little-endian) and the header, a JSON object by tensor name.
    Raises OSError or ValueError for anything that is no such file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise ValueError(f"{path} is no safetensors file: its header would take {length} bytes")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no safetensors file: its header is no JSON object")
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _difference(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    unknown = sorted(found.keys() - expected.keys())
    missing = sorted(expected.keys() - found.keys())
    misshapen = [
        f"{name} has shape {found[name]}, not {expected[name]}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    parts = [
        f"unknown to the model: {_some(unknown)}" if unknown else "",
        f"missing: {_some(missing)}" if missing else "",
        _some(misshapen),
    ]
    return "; ".join(part for part in parts if part)


def _some(words: list[str]) -> str:
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _default_root() -> Path:
    usable = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
    return SHARED_MEMORY if usable else Path(tempfile.gettempdir())


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):  # another user's, or another process was faster
            if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_S:
                _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    """Raises OSError (BlockingIOError) if the folder's owner lives."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
