"""What an attempt's actors on this machine are at, their stacks included: for a run that stands still.

py-spy reads the stacks from the processes' memory, without their help, so it works where a process hangs or is stopped.
"""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from workers.activity.record import Activity, read_activities

DUMP_S = 20.0
"""For the stacks of one process."""
_MOST_CHARACTERS = 6000
"""Of one process's stacks."""
_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """One process of an actor: the actor's own, or one that it has started, as vLLM does."""

    pid: int
    name: str
    is_stopped: bool
    """By a signal or a debugger, so that it cannot go on by itself."""
    stacks: str
    """Of all threads, or why there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorState:
    """An actor as it was found."""

    activity: Activity
    processes: tuple[ProcessState, ...]
    """Its own first; none where it is gone."""

    @property
    def is_stopped(self) -> bool:
        """Whether any of its processes is."""
        return any(process.is_stopped for process in self.processes)

    @property
    def busy_since(self) -> float | None:
        """When its oldest call began, in Unix time; None while it waits to be asked."""
        return min((work.since for work in self.activity.work), default=None)


def inspect_machine(attempt: str) -> list[ActorState]:
    """All of the attempt's actors on this machine."""
    return [_state(activity) for activity in read_activities(attempt)]


def stacks_of(pid: int) -> str:
    """The stacks of a Python process's threads, or why they cannot be had."""
    command = [str(Path(sys.prefix, "bin", "py-spy")), "dump", "--nonblocking", "--pid", str(pid)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=DUMP_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no stacks: {error}"
    return (found.stdout or f"no stacks: {found.stderr.strip()}")[:_MOST_CHARACTERS]


def _state(activity: Activity) -> ActorState:
    processes = _processes(activity.pid)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        states = tuple(threads.map(_process_state, processes))
    return ActorState(activity=activity, processes=states)


def _processes(pid: int) -> Sequence[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *(child for child in process.children(recursive=True) if "python" in _command(child))]
    except psutil.Error:
        return []


def _command(process: psutil.Process) -> str:
    """Path of its program; empty where it is gone."""
    try:
        return process.exe()
    except psutil.Error:
        return ""


def _process_state(process: psutil.Process) -> ProcessState:
    try:
        name, status = process.name(), process.status()
    except psutil.Error:
        name, status = "gone", psutil.STATUS_DEAD
    return ProcessState(
        pid=process.pid,
        name=name,
        is_stopped=status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP),
        stacks=stacks_of(process.pid),
    )
