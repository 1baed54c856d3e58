"""Kills processes of a running stack at random, with SIGKILL, and keeps a second scheduler beside the stack's own."""

import logging
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.acceptance.stack_under_test import Stack

logger = logging.getLogger(__name__)

DRIVER, ACTOR, HEAD = "tests.chaos.workload", "ray::Adder", "gcs_server"
API, SCHEDULER = "api.server", "service.scheduler.main"
WEIGHTS = {API: 3, SCHEDULER: 3, "standby": 2, DRIVER: 4, ACTOR: 4, HEAD: 1}
"""Ray's head rarely: its successor is up after some ten seconds, and everything that ran then runs anew."""


def ours(mark: str) -> list[psutil.Process]:
    """Living processes with this in their command line or title, whoever their parent is by now."""
    return [process for process in psutil.process_iter() if mark in _title(process)]


def _title(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""


class Monkey:
    """One for a stack; `killed` counts its victims by kind."""

    def __init__(self, stack: Stack, seed: int, log: Path) -> None:
        self._stack = stack
        self._random = random.Random(seed)
        self._log = log
        self.environment = stack.child(SCHEDULER).environ()
        """Of a scheduler."""
        self._standby = self._start_standby()
        self.killed: Counter[str] = Counter()

    def rage(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        """A kill every few seconds; the first of them go round all kinds, so that a short rage spares none.

        Goes on for up to as long again while some kind was not to be found yet.
        """
        until = time.monotonic() + seconds
        waiting = self._random.sample(list(WEIGHTS), len(WEIGHTS))
        while time.monotonic() < until + (seconds if waiting else 0):
            kind = waiting.pop() if waiting else self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if not self.kill(kind) and kind in (DRIVER, ACTOR):
                waiting.insert(0, kind)
            pause = time.monotonic() + self._random.uniform(1.0, 5.0)
            while time.monotonic() < pause:
                meanwhile()
                self.keep_standby()
                time.sleep(0.2)

    def kill(self, kind: str) -> bool:
        """One process of the kind; False if there is none at the moment."""
        victims = [self._standby] if kind == "standby" else self._of_stack(kind)
        if not victims:
            return False
        victim = self._random.choice(victims)
        logger.info("killing", extra={"kind": kind, "pid": victim.pid})
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return False
        self.killed[kind] += 1
        return True

    def keep_standby(self) -> None:
        """Starts it again if it is dead."""
        if self._standby.poll() is not None:
            self._standby = self._start_standby()

    def stop(self) -> None:
        """Ends the second scheduler."""
        self._standby.terminate()
        self._standby.wait(30)

    def _of_stack(self, mark: str) -> list[psutil.Process]:
        family = psutil.Process(self._stack.process.pid).children(recursive=True)
        return [process for process in family if mark in _title(process) and process.pid != self._standby.pid]

    def _start_standby(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", SCHEDULER],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
