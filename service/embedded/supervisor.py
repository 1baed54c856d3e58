"""Starts services, starts them again when they crash, and stops them in order.

waiting ──due──> running ──exit──> waiting (0.5 s, 1 s, 2 s … 10 s; from the start again after 30 s of life)
"""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from service.embedded import process_tree
from service.embedded.process_tree import die_with_parent

logger = logging.getLogger(__name__)
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
STEADY_AFTER_S = 30.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One supervised process."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    """The whole environment, not an addition to ours. May hold secrets: never logged."""
    log: Path
    """Standard output and error are appended here."""
    user: str | None = None
    """System user to run as; only root can name one."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_deadline_s: float = 6.0
    """From `stop_signal` to SIGKILL."""
    leaves_orphans: bool = False
    """Its descendants may outlive it (Ray's workers, vLLM's processes): end them when it is gone."""


class Supervised:
    """A service and its present process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.num_crashes = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._due_at = 0.0
        self._delay_s = FIRST_DELAY_S

    @property
    def pid(self) -> int | None:
        """Process id, or None between a crash and the next start."""
        return self._process.pid if self._process else None

    def is_due(self, now: float) -> bool:
        """Whether it is down and its back-off is over."""
        return self._process is None and now >= self._due_at

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The present process, None between a crash and the next start."""
        return self._process

    def start(self, now: float) -> None:
        """Starts the process in a session of its own; it gets the stop signal if we die."""
        service = self.service
        with service.log.open("ab") as output:
            self._process = subprocess.Popen(
                service.command,
                env=dict(service.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(service.stop_signal),
                **_identity(service.user),
            )
        self._started_at = now
        logger.info("service started", extra={"service": service.name, "pid": self._process.pid})

    def notice_exit(self, now: float) -> bool:
        """Whether the process has just been found dead; then the next start is scheduled."""
        if self._process is None or (code := self._process.poll()) is None:
            return False
        lived_s = now - self._started_at
        if lived_s >= STEADY_AFTER_S:
            self._delay_s = FIRST_DELAY_S
        logger.warning(
            "service crashed",
            extra={
                "service": self.service.name,
                "exit_code": code,
                "lived_s": round(lived_s, 1),
                "restart_in_s": self._delay_s,
                "log": str(self.service.log),
            },
        )
        self.num_crashes += 1
        self._process = None
        self._due_at = now + self._delay_s
        self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
        return True

    def stop(self, is_urgent: Callable[[], bool]) -> None:
        """Asks the process to stop and waits for its deadline, or until it is urgent; then kills it."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(self.service.stop_signal)
        deadline = time.monotonic() + self.service.stop_deadline_s
        while self._process.poll() is None and time.monotonic() < deadline and not is_urgent():
            time.sleep(_POLL_S)
        if self._process.poll() is None:
            logger.warning("service did not stop in time; killing it", extra={"service": self.service.name})
            self._process.kill()
        code = self._process.wait()
        self._process = None
        logger.info("service stopped", extra={"service": self.service.name, "exit_code": code})


def run_once(service: Service, pause: Callable[[float], None], *, deadline_s: float) -> int | None:
    """A service's exit code after it has run to its end; None if the deadline passed. `pause` may raise to give up."""
    supervised = Supervised(service)
    deadline = time.monotonic() + deadline_s
    supervised.start(time.monotonic())
    process = supervised.process
    assert process is not None, "it was started"
    try:
        while process.poll() is None and time.monotonic() < deadline:
            pause(_POLL_S)
        return process.poll()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class Supervisor:
    """All services of a stack. Single-threaded: the owner calls `tick` several times a second."""

    def __init__(self) -> None:
        self._supervised: list[Supervised] = []

    def add(self, service: Service) -> Supervised:
        """Starts a service and looks after it from now on."""
        supervised = Supervised(service)
        supervised.start(time.monotonic())
        self._supervised.append(supervised)
        return supervised

    def tick(self) -> None:
        """Notices crashes, starts what is due, and collects dead orphans."""
        now = time.monotonic()
        for supervised in self._supervised:
            if supervised.notice_exit(now) and supervised.service.leaves_orphans:
                self._end_orphans(grace_s=1.0)
            if supervised.is_due(now):
                supervised.start(now)
        process_tree.reap_adopted(self._pids())

    def stop(self, order: Sequence[str], is_urgent: Callable[[], bool]) -> None:
        """Stops the services named in `order`, one after the other, and what they left behind."""
        for name in order:
            for supervised in [one for one in self._supervised if one.service.name == name]:
                supervised.stop(is_urgent)
                self._supervised.remove(supervised)
                if supervised.service.leaves_orphans:
                    self._end_orphans(grace_s=0.0 if is_urgent() else 3.0)

    def _end_orphans(self, *, grace_s: float) -> None:
        process_tree.end(lambda: process_tree.orphans(self._pids()), grace_s=grace_s)

    def _pids(self) -> set[int]:
        return {supervised.pid for supervised in self._supervised if supervised.pid is not None}


class _Identity(TypedDict, total=False):
    user: str
    group: str
    extra_groups: list[str]


def _identity(user: str | None) -> _Identity:
    return _Identity() if user is None else _Identity(user=user, group=user, extra_groups=[])


def inherited_environment(*dropped: str) -> dict[str, str]:
    """Our own environment for a child, less the variables that begin with one of `dropped` or could lead it astray.

    The latter are addresses of other Ray clusters and PostgreSQL servers. And Python does not import from the folder
    where the user happens to stand: a folder called `api` or `workers` there must not take the place of ours.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PG", *dropped))}
    return {**kept, "PYTHONSAFEPATH": "1"}
