"""The folder that holds everything of a local stack, and the lock that lets one stack at a time use it.

<data>/endpoint.json     where the running stack is; there only while it is ready
<data>/lock              held by the keeper; names the front's process id
<data>/ports.json        ports of the last run, taken again if they are free
<data>/secrets/          0700: secret_key, api_token, ray_token (0600 each)
<data>/postgres/ logs/ outputs/ work/
"""

import fcntl
import hashlib
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from service.embedded.errors import StackError

KEPT_LOGS = 3
_LOCK_PAUSE_S = 0.2
_SHUTDOWN_WAIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFolder:
    """Paths below one resolved data folder."""

    root: Path

    @property
    def secrets(self) -> Path:
        """0700, also where root must let PostgreSQL's user pass through the folder above."""
        return self.root / "secrets"

    @property
    def secret_key(self) -> Path:
        """Attempt tokens are derived from it."""
        return self.secrets / "secret_key"

    @property
    def api_token(self) -> Path:
        """Token of the user `local`."""
        return self.secrets / "api_token"

    @property
    def ray_token(self) -> Path:
        """Ray's authentication token: whoever has it runs code on the cluster."""
        return self.secrets / "ray_token"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's own data."""
        return self.root / "postgres"

    @property
    def logs(self) -> Path:
        """One file a service."""
        return self.root / "logs"

    @property
    def outputs(self) -> Path:
        """Checkpoints and models."""
        return self.root / "outputs"

    @property
    def work(self) -> Path:
        """Attempt tokens and the drivers' spool."""
        return self.root / "work"

    @property
    def endpoint(self) -> Path:
        """Where the running stack is."""
        return self.root / "endpoint.json"

    @property
    def ports(self) -> Path:
        """Ports of the last run."""
        return self.root / "ports.json"

    @property
    def lock(self) -> Path:
        """Locked by flock(2), so a killed stack leaves no stale lock."""
        return self.root / "lock"

    @property
    def identity(self) -> str:
        """Ten hexadecimal digits that name this folder among all of the machine."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:10]

    def create(self) -> None:
        """Makes what is missing, private to the owner."""
        self.root.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            self.root.chmod(0o700)
        for folder in (self.secrets, self.logs, self.outputs, self.work):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
        make_secret(self.secret_key)
        make_secret(self.ray_token)

    def log(self, name: str) -> Path:
        """A service's log for this run; earlier ones move to `.1`, `.2`, `.3`."""
        newest = self.logs / f"{name}.log"
        for number in range(KEPT_LOGS, 0, -1):
            older = newest if number == 1 else newest.with_suffix(f".log.{number - 1}")
            if older.exists():
                older.replace(newest.with_suffix(f".log.{number}"))
        return newest

    def short_folder(self) -> Path:
        """A private folder with a short path, for sockets (a Unix socket's path has at most 107 bytes).

        Raises StackError if somebody else has made it.
        """
        folder = Path(_short_temporary_root()) / f"sedray-{os.geteuid()}-{self.identity}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise StackError(f"{folder} belongs to somebody else; remove it, or choose another data folder")
        folder.chmod(0o700)
        return folder


def take_lock(folder: DataFolder, pause: Callable[[float], None], *, front: int) -> IO[str]:
    """The open lock file: the folder is ours until it is closed, at the latest when this process ends.

    A stack whose front is gone is just being shut down by its keeper: that is waited for, up to a minute. Raises
    StackError if a stack is up.
    """
    deadline = time.monotonic() + _SHUTDOWN_WAIT_S
    file = folder.lock.open("a+")
    while not _try_lock(file):
        pid = _read_json(folder.lock).get("pid")
        if (pid is not None and _is_alive(pid)) or time.monotonic() > deadline:
            file.close()
            where = _read_json(folder.endpoint).get("url", "an address it has not printed yet")
            raise StackError(
                f"a stack with process id {pid} uses the data folder {folder.root}, at {where}; "
                "use that one, stop it with Ctrl-C, or give another folder with --data"
            )
        pause(_LOCK_PAUSE_S)
    file.truncate(0)
    file.write(json.dumps({"pid": front}))
    file.flush()
    return file


def write_private(file: Path, content: str) -> None:
    """Writes a file that only its owner can read; nobody sees half of it."""
    aside = file.with_suffix(".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(content)
    aside.replace(file)


def make_secret(file: Path) -> None:
    """64 random hexadecimal digits in a private file, unless it exists."""
    if not file.exists():
        write_private(file, secrets.token_hex(32))


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content


def _short_temporary_root() -> str:
    chosen = tempfile.gettempdir()
    return chosen if len(chosen) <= 16 else "/tmp"
