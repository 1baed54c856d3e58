"""`python -m service.backup make|restore FOLDER`: what `sedray admin backup` and `sedray admin restore` execute.

Database and output root come from the service's own settings (`SEDRAY_DATABASE_URL`, `SEDRAY_OUTPUT_ROOT`).
"""

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.backup import BackupError, ToolsMissing, make_backup, restore_backup


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SEDRAY_", frozen=True)

    database_url: str
    output_root: str


def main() -> int:
    """Exit code 0 when it is done; 1 with a reason; 3 when files of a restored database are missing."""
    parser = argparse.ArgumentParser(prog="sedray admin", description=__doc__)
    parser.add_argument("what", choices=("make", "restore"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--digests", action="store_true", help="read every file and compare or note its SHA-256")
    given = parser.parse_args()
    try:
        settings = _Settings()
        return (_make if given.what == "make" else _restore)(given, settings)
    except ValidationError as error:
        names = ", ".join(f"SEDRAY_{str(one['loc'][0]).upper()}" for one in error.errors(include_input=False))
        return _fail(f"set {names} as for the service itself")
    except (BackupError, ToolsMissing, OSError) as error:
        return _fail(str(error))


def _make(given: argparse.Namespace, settings: _Settings) -> int:
    backup = make_backup(settings.database_url, settings.output_root, given.folder, digests=given.digests)
    sys.stdout.write(
        f"{given.folder}: {backup.num_experiments} experiments, schema {backup.revision}; "
        f"{backup.num_files} files with {backup.num_file_bytes:,} bytes listed, not copied\n"
        "The key file (SEDRAY_SECRET_KEY_FILE) is not in it: keep it as well.\n"
    )
    return 0


def _restore(given: argparse.Namespace, settings: _Settings) -> int:
    restored = restore_backup(given.folder, settings.database_url, settings.output_root, digests=given.digests)
    sys.stdout.write(
        f"{restored.num_experiments} experiments of {restored.backup.created_at:%Y-%m-%d %H:%M} UTC are back\n"
    )
    if not restored.num_missing:
        return 0
    sys.stdout.write(f"{restored.num_missing} files are missing or differ below {settings.output_root}:\n")
    sys.stdout.write("".join(f"  {path}\n" for path in restored.missing))
    return 3


def _fail(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
