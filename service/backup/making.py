"""Makes a backup while the service goes on: pg_dump sees one moment of the database."""

from datetime import UTC, datetime
from pathlib import Path

import psycopg

from service.backup.contents import BACKUP, DUMP, OUTPUTS, Backup, digest_of_file, list_outputs, write_outputs
from service.backup.tools import ToolsMissing, run_tool
from service.storage.database import libpq_url
from service.versions import sedray_version


def make_backup(database_url: str, output_root: str, folder: Path, *, digests: bool = False) -> Backup:
    """Writes a backup into a new or empty folder; returns what it holds. Raises ToolsMissing, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ToolsMissing(f"{folder} is not empty; give each backup a folder of its own")
    revision, _ = _facts(database_url)
    run_tool("pg_dump", ["--format=custom", "--no-owner", f"--file={folder / DUMP}"], database_url)
    after, num_experiments = _facts(database_url)
    if after != revision:
        raise ToolsMissing("the schema was migrated while it was dumped; make the backup again")
    num_files, num_bytes = write_outputs(folder / OUTPUTS, list_outputs(output_root, digests=digests))
    backup = Backup(
        created_at=datetime.now(UTC),
        sedray_version=sedray_version(),
        revision=revision,
        output_root=output_root,
        num_experiments=num_experiments,
        num_files=num_files,
        num_file_bytes=num_bytes,
        dump_sha256=digest_of_file(folder / DUMP),
        outputs_sha256=digest_of_file(folder / OUTPUTS),
    )
    aside = folder / f".{BACKUP}"
    aside.write_text(backup.model_dump_json(indent=2) + "\n")
    aside.replace(folder / BACKUP)
    return backup


def _facts(database_url: str) -> tuple[str, int]:
    with psycopg.connect(libpq_url(database_url), connect_timeout=10) as connection:
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        count = connection.execute("SELECT count(*) FROM experiments").fetchone()
    if revision is None or count is None:
        raise ToolsMissing("the database has no schema of sedray's; nothing to back up")
    return str(revision[0]), int(count[0])
