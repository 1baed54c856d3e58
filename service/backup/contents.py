"""The two lists in a backup: what it is, and which files belong to it."""

import gzip
import json
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from fsspec.core import url_to_fs
from pydantic import BaseModel, ConfigDict

DUMP, OUTPUTS, BACKUP = "database.dump", "outputs.jsonl.gz", "backup.json"
FORMAT = 1
_CHUNK_BYTES = 1 << 20


class StoredFile(BaseModel):
    """One file below the output root."""

    model_config = ConfigDict(frozen=True)

    path: str
    """Relative to the root."""
    num_bytes: int
    sha256: str | None = None


class Backup(BaseModel):
    """The content of `backup.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    created_at: datetime
    sedray_version: str
    revision: str
    """Of the schema."""
    output_root: str
    num_experiments: int
    num_files: int
    num_file_bytes: int
    dump_sha256: str
    outputs_sha256: str


def list_outputs(output_root: str, *, digests: bool) -> Iterator[StoredFile]:
    """Every file below the root, by path; with their digests if so wanted, which reads them all."""
    filesystem, root = url_to_fs(output_root)
    if not filesystem.exists(root):
        return
    found = filesystem.find(root, detail=True)
    for path in sorted(found):
        relative = path.removeprefix(root).lstrip("/")
        digest = None
        if digests:
            with filesystem.open(path, "rb") as file:
                digest = digest_of(file)
        yield StoredFile(path=relative, num_bytes=int(found[path]["size"]), sha256=digest)


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of what is left in a stream."""
    digest = sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def digest_of_file(file: Path) -> str:
    """SHA-256 of a file here."""
    with file.open("rb") as stream:
        return digest_of(stream)


def write_outputs(file: Path, files: Iterator[StoredFile]) -> tuple[int, int]:
    """Writes the list; returns the number of files and of their bytes."""
    count = num_bytes = 0
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        for one in files:
            lines.write(one.model_dump_json() + "\n")
            count, num_bytes = count + 1, num_bytes + one.num_bytes
    return count, num_bytes


def read_outputs(file: Path) -> Iterator[StoredFile]:
    """The list, line by line."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield StoredFile.model_validate(json.loads(line))
