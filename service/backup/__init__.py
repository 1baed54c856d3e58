"""Backups: the database as PostgreSQL dumps it, and a list of the files that belong to it.

    <folder>/database.dump     pg_dump's own format, a snapshot
    <folder>/outputs.jsonl.gz  path, size and, if asked for, SHA-256 of every file below the output root
    <folder>/backup.json       last: what is in it, of which version, with the digests of the two

A folder without `backup.json` is no backup. The files themselves are not copied: they lie in a storage that has its own
ways, and a restore says which of them are missing. Secrets are in no backup: keep the key file beside it, elsewhere.
"""

from service.backup.making import make_backup
from service.backup.restoring import BackupError, Restored, restore_backup
from service.backup.tools import ToolsMissing

__all__ = ["BackupError", "Restored", "ToolsMissing", "make_backup", "restore_backup"]
