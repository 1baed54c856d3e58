"""What a running stack tells others: a file for the command line, a few lines for its owner."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from service.embedded.data_folder import write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The content of `<data>/endpoint.json`."""

    url: str
    """API and page."""
    token_file: str
    ray_dashboard_url: str
    ray_token_file: str
    pid: int
    """The process to send SIGINT or SIGTERM to."""

    def write(self, file: Path) -> None:
        """Written last: where the file is, the stack is ready."""
        write_private(file, json.dumps(asdict(self), indent=2) + "\n")


def withdraw(file: Path, pid: int) -> None:
    """Removes the file if it speaks of the stack `pid`, which has ended; another's stays."""
    try:
        speaks_of = json.loads(file.read_text())["pid"]
    except FileNotFoundError:
        return
    if speaks_of == pid:
        file.unlink()


def announce(endpoint: Endpoint) -> None:
    """Prints the addresses; the log-in link, which holds the token, only to a terminal."""
    if sys.stdout.isatty():
        page = f"{endpoint.url}/login?token={Path(endpoint.token_file).read_text().strip()}"
    else:
        page = f"{endpoint.url}/login (token in {endpoint.token_file})"
    sys.stdout.write(
        f"page           {page}\n"
        f"HTTP API       {endpoint.url}/openapi.json\n"
        f"Ray dashboard  {endpoint.ray_dashboard_url} (token in {endpoint.ray_token_file})\n"
        "The stack is up; Ctrl-C stops it.\n"
    )
    sys.stdout.flush()
