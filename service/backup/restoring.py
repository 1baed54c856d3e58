"""Brings a backup into an empty database, and says which files it misses.

The database is whole or still empty at the end: one transaction. Then it is brought to this version's schema, and who
scheduled before is fenced: the lease's token goes far beyond any that was given out since.
"""

from dataclasses import dataclass
from pathlib import Path

import psycopg
from pydantic import ValidationError

from migrations.apply import upgrade
from service.backup.contents import BACKUP, DUMP, FORMAT, OUTPUTS, Backup, digest_of_file, list_outputs, read_outputs
from service.backup.tools import run_tool
from service.storage.database import libpq_url

_FENCE = 1_000_000
_SHOWN = 20


class BackupError(Exception):
    """The folder holds no whole backup, or the database is not empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What came back."""

    backup: Backup
    num_experiments: int
    num_missing: int
    """Files that the backup lists and the output root does not have, or has in another size or content."""
    missing: list[str]
    """The first of them."""


def restore_backup(folder: Path, database_url: str, output_root: str, *, digests: bool = False) -> Restored:
    """Restores into an empty database. Raises BackupError, ToolsMissing; the database is empty then."""
    backup = read_backup(folder)
    _require_empty(database_url)
    arguments = ["--no-owner", "--exit-on-error", "--single-transaction", str(folder / DUMP)]
    run_tool("pg_restore", arguments, database_url)
    upgrade(database_url)
    num_experiments = _fence(database_url)
    missing = _missing(folder, output_root, digests=digests)
    return Restored(backup=backup, num_experiments=num_experiments, num_missing=len(missing), missing=missing[:_SHOWN])


def read_backup(folder: Path) -> Backup:
    """What the folder holds, its digests checked. Raises BackupError."""
    try:
        backup = Backup.model_validate_json((folder / BACKUP).read_text())
    except FileNotFoundError as error:
        raise BackupError(f"{folder} holds no whole backup: {BACKUP}, which is written last, is missing") from error
    except ValidationError as error:
        raise BackupError(f"{folder / BACKUP} is not understood by this version: {error}") from error
    if backup.format != FORMAT:
        raise BackupError(f"the backup is of format {backup.format}; this version knows {FORMAT}")
    for name, digest in ((DUMP, backup.dump_sha256), (OUTPUTS, backup.outputs_sha256)):
        if not (folder / name).is_file() or digest_of_file(folder / name) != digest:
            raise BackupError(f"{folder / name} is missing or damaged: its SHA-256 is not the one in {BACKUP}")
    return backup


def _require_empty(database_url: str) -> None:
    with psycopg.connect(libpq_url(database_url), connect_timeout=10) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchone()
    if tables is None or tables[0]:
        raise BackupError("the database is not empty; restore into a new one (createdb), then point the service at it")


def _fence(database_url: str) -> int:
    with psycopg.connect(libpq_url(database_url), autocommit=True, connect_timeout=10) as connection:
        connection.execute("UPDATE scheduler_lease SET token = token + %s, expires_at = now()", (_FENCE,))
        connection.execute("DELETE FROM service_processes")
        count = connection.execute("SELECT count(*) FROM experiments").fetchone()
        connection.execute("ANALYZE")
    return int(count[0]) if count else 0


def _missing(folder: Path, output_root: str, *, digests: bool) -> list[str]:
    there = {one.path: one for one in list_outputs(output_root, digests=digests)}
    found = []
    for one in read_outputs(folder / OUTPUTS):
        have = there.get(one.path)
        differs = have is not None and digests and one.sha256 is not None and have.sha256 != one.sha256
        if have is None or have.num_bytes != one.num_bytes or differs:
            found.append(one.path)
    return found
