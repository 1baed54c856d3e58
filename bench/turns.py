"""Programs that are timed in turns: each in a process of its own, one step at a time, all others asleep meanwhile.

    driver (`Contestant.take_turn`)        program (`Turns.next`)
        "go"              ──stdin──>       returns True: the program runs its step
        times and peak    <─stdout──       is called again: the step is over
        end of input      ──stdin──>       returns False: the program ends

Standard library only: programs may run in interpreters that have nothing of this project.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One step of one program."""

    seconds: float
    """Wall time until the program was ready for its next step."""
    cpu_seconds: float
    """Of all its threads; what the step costs where others use the machine too."""
    peak_mib: float
    """The process's largest resident size so far; Linux only."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds by what the program did in them, as far as it says."""
    mean_length: float | None = None
    """Tokens of a completion in this step, where the program generates some: equal work is not taken on trust."""


class Turns:
    """The program's side. Whatever else the program prints goes to standard error."""

    def __init__(self, cpu_clock: Callable[[], float] = time.process_time) -> None:
        """`cpu_clock` is another one for a program of several processes."""
        self._answers: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._cpu_clock = cpu_clock
        self._start: tuple[float, float] | None = None
        self._phases: dict[str, float] = {}
        self.mean_length: float | None = None
        """Told by the program before its step ends."""

    def note(self, phases: Mapping[str, float]) -> None:
        """Add to the seconds by phase of the step that runs."""
        for phase, seconds in phases.items():
            self._phases[phase] = self._phases.get(phase, 0.0) + seconds

    def next(self) -> bool:
        """End the step that runs, wait for the next turn, and say whether there is one."""
        if self._start is not None:
            wall_s, cpu_s = time.perf_counter() - self._start[0], self._cpu_clock() - self._start[1]
            times = {"seconds": wall_s, "cpu_seconds": cpu_s, "peak_mib": _peak_mib(), "phases": self._phases}
            self._answers.write(json.dumps({**times, "mean_length": self.mean_length}) + "\n")
        self._phases = {}
        going = sys.stdin.readline() != ""
        self._start = time.perf_counter(), self._cpu_clock()
        return going


class Contestant:
    """The driver's side: a started program that waits for its turns."""

    def __init__(self, name: str, command: list[str], *, threads: int) -> None:
        """`command` runs in the current folder with `threads` threads for its matrix products."""
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
        )

    def take_turn(self) -> Turn:
        """Let the program run one step. Raises RuntimeError if it ends instead."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # The missing answer says the same.
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended with exit code {self._process.wait()}; its own message stands above")
        return Turn(**json.loads(answer))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
