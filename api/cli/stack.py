"""Starts the local stack as a process of its own. The command line knows it by its module's name only."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from api.client.connection import read_endpoint

_MODULE = "service.embedded"
_STOP_DEADLINE_S = 60.0


class StackFailed(Exception):
    """The stack did not come up; the message says where its log is."""


def become(arguments: list[str]) -> NoReturn:
    """Replaces this process by the stack."""
    if find_spec(_MODULE) is None or find_spec("sqlalchemy") is None:
        sys.exit("this is the client install; the stack needs: pip install 'sedray[service,workers]'")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", _MODULE, *arguments])


@contextmanager
def running_stack(data: Path, *, start_deadline_s: float) -> Iterator[subprocess.Popen[bytes]]:
    """A stack on `data` with its output in `<data>/demo.log`; stopped, and waited for, at the end of the block.

    SIGTERM and a closed terminal end the block as Ctrl-C does. Only the main thread may open it.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        # The stack has a session of its own: nobody else would tell it.
        signal.signal(number, signal.default_int_handler)
    data.mkdir(parents=True, exist_ok=True)
    log = data / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, "--data", str(data)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_up(process, data, log, start_deadline_s)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the stack to stop and waits; kills it only if it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait_until_up(process: subprocess.Popen[bytes], data: Path, log: Path, deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    while True:
        endpoint = read_endpoint(data)
        if endpoint is not None and endpoint.get("pid") == process.pid:
            return
        if process.poll() is not None:
            raise StackFailed(f"the stack ended with exit code {process.returncode}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise StackFailed(f"the stack was not ready after {deadline_s:.0f} s:\n{_tail(log)}")
        time.sleep(0.2)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
