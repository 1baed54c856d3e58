"""Checkpoints that are either whole or not there: finding, checking and deleting them.

    root/
      step-00000100/
        tensors-00000.bin, tensors-00001.bin, ...   hashed while they are written, one by each rank
        tensors.json                                what lies where in them
        manifest.json                               last: facts, SHA-256 and size of each file, a digest of itself

A checkpoint without a manifest that verifies does not exist for the reader. Names sort by age: `checkpoint_name`.
`checkpoint_draft` writes them.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, BinaryIO, TypedDict, cast

import fsspec

MANIFEST = "manifest.json"
FORMAT = 2
ASIDE = ".writing-"
"""Begins the names of folders that are being written."""
_CHUNK_BYTES = 1 << 20


class FileEntry(TypedDict):
    """What a manifest says about a file."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedCheckpoint:
    """A checkpoint that was passed over because it is not whole."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files have the digests that its manifest names."""

    name: str
    location: str
    """Folder or URL."""
    facts: dict[str, Any]

    def open(self, file_name: str) -> BinaryIO:
        """A stream of one of its files; raises FileNotFoundError if it has no such file."""
        return cast(BinaryIO, fsspec.open(f"{self.location}/{file_name}", "rb").open())


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestCheckpoint:
    """The outcome of a search."""

    checkpoint: Checkpoint | None
    skipped: tuple[SkippedCheckpoint, ...]
    """Newer ones that are not whole, newest first."""


class DamagedCheckpoint(Exception):
    """A checkpoint does not verify; the message says why."""


def checkpoint_name(step: int) -> str:
    """The name of the checkpoint after a step; names sort as their steps do."""
    return f"step-{step:08d}"


def load_latest(root: str) -> LatestCheckpoint:
    """The newest checkpoint below `root` that verifies, and the newer ones that do not, with the reasons.

    Every file is read once to compare its SHA-256. A root that does not exist holds no checkpoints.
    """
    filesystem, path = fsspec.core.url_to_fs(root)
    skipped: list[SkippedCheckpoint] = []
    for name in reversed(_names(filesystem, path)):
        try:
            checkpoint = load_checkpoint(root, name)
        except DamagedCheckpoint as error:
            skipped.append(SkippedCheckpoint(name=name, reason=str(error)))
            continue
        return LatestCheckpoint(checkpoint=checkpoint, skipped=tuple(skipped))
    return LatestCheckpoint(checkpoint=None, skipped=tuple(skipped))


def load_checkpoint(root: str, name: str) -> Checkpoint:
    """The checkpoint of this name below `root`. Raises DamagedCheckpoint unless it is there and verifies."""
    filesystem, path = fsspec.core.url_to_fs(root)
    facts = _verified_facts(filesystem, f"{path}/{name}")
    return Checkpoint(name=name, location=f"{root.rstrip('/')}/{name}", facts=facts)


def verify_checkpoint(location: str) -> None:
    """Read a whole checkpoint once more; raises DamagedCheckpoint."""
    root, _, name = location.rpartition("/")
    load_checkpoint(root, name)


def is_local(url: str) -> bool:
    """Whether a path or fsspec URL lies on a local or mounted file system."""
    filesystem, _ = fsspec.core.url_to_fs(url)
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def prune(root: str, keep: int, *, protect: Collection[str] = ()) -> list[str]:
    """Delete all checkpoints but the newest `keep` that have a manifest and those named in `protect`.

    Returns the deleted names. Also removes what interrupted writers left. Only the one writer of `root` may call it.
    """
    filesystem, path = fsspec.core.url_to_fs(root)
    names = _names(filesystem, path)
    whole = [name for name in names if filesystem.exists(f"{path}/{name}/{MANIFEST}")]
    kept = whole[-keep:]
    # A newer one without a manifest is left alone: it tells a person that its writer was interrupted.
    doomed = [name for name in names if kept and name < kept[0] and name not in protect]
    for name in [*doomed, *_names(filesystem, path, aside=True)]:
        # The manifest goes first, so that a deletion cut short leaves no checkpoint that looks whole.
        if filesystem.exists(f"{path}/{name}/{MANIFEST}"):
            filesystem.rm_file(f"{path}/{name}/{MANIFEST}")
        filesystem.rm(f"{path}/{name}", recursive=True)
    return doomed


def manifest_bytes(name: str, files: Mapping[str, FileEntry], facts: dict[str, Any]) -> bytes:
    """The manifest of a checkpoint. Raises ValueError for facts that JSON cannot hold, such as NaN."""
    body = {"format": FORMAT, "name": name, "files": dict(files), "facts": facts}
    return json.dumps({"body": body, "sha256": _digest(body)}, indent=1, allow_nan=False).encode()


def _digest(body: dict[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _names(filesystem: Any, path: str, *, aside: bool = False) -> list[str]:
    """Checkpoint names from old to new, or the folders that interrupted writers left."""
    filesystem.invalidate_cache()
    if not filesystem.isdir(path):
        return []
    entries = filesystem.ls(path, detail=True)
    names = [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory"]
    return sorted(name for name in names if name.startswith(ASIDE) == aside)


def _verified_facts(filesystem: Any, folder: str) -> dict[str, Any]:
    """The facts of a whole checkpoint; raises DamagedCheckpoint with what is wrong."""
    try:
        manifest = json.loads(filesystem.cat_file(f"{folder}/{MANIFEST}"))
        body: dict[str, Any] = manifest["body"]
        intact = manifest["sha256"] == _digest(body)
    except FileNotFoundError as error:
        raise DamagedCheckpoint("no manifest: its writer was interrupted") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"manifest unreadable: {error}") from error
    if not intact:
        raise DamagedCheckpoint("manifest does not match its own digest")
    if body["format"] != FORMAT:
        raise DamagedCheckpoint(f"format {body['format']} is not {FORMAT}, the one this version reads")
    for file_name, entry in body["files"].items():
        _verify_file(filesystem, folder, file_name, entry)
    return cast(dict[str, Any], body["facts"])


def _verify_file(filesystem: Any, folder: str, file_name: str, entry: FileEntry) -> None:
    digest = sha256()
    num_bytes = 0
    try:
        for chunk in _chunks(filesystem, f"{folder}/{file_name}"):
            digest.update(chunk)
            num_bytes += len(chunk)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{file_name} is missing") from error
    if num_bytes != entry["num_bytes"]:
        raise DamagedCheckpoint(f"{file_name} has {num_bytes} bytes, its manifest says {entry['num_bytes']}")
    if digest.hexdigest() != entry["sha256"]:
        raise DamagedCheckpoint(f"{file_name} does not match the SHA-256 in its manifest")


def _chunks(filesystem: Any, path: str) -> Iterator[bytes]:
    with filesystem.open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
