"""The pool's side of one judge process: its pipes, its deadline, its end."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from service.contract.rewards import SingleReward
from workers.rewards.judge_process import encode_sample, encode_spec
from workers.rewards.line_pipes import LinePipes
from workers.rewards.samples import RewardSample

START_S = 120.0
"""Imports alone take seconds on a busy machine."""
_ROOT = Path(__file__).resolve().parents[2]
# Not `-m`: it would put the current folder, which may hold anything, before the libraries.
_BOOT = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from workers.rewards.judge_process import main; main()"


class JudgeHandle:
    """A process that judges, and what it is doing. To be made by a thread that lives as long as the process shall."""

    def __init__(self, spec: SingleReward) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 closed by `kill`
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self.pipes = LinePipes(self._process.stdin, self._process.stdout)
        self.ready = False
        self.place: int | None = None
        """Of its sample in the batch; None without one."""
        self.ends_at = time.monotonic() + START_S
        self.pipes.write(encode_spec(spec))

    def give(self, place: int, sample: RewardSample, limit_s: float) -> None:
        """Let it judge a sample."""
        self.place, self.ends_at = place, time.monotonic() + limit_s
        self.pipes.write(encode_sample(sample))

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it with all that stayed in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.pipes.close()
        self._errors.close()

    def last_words(self) -> str:
        """What a process that did not start has printed, and how it ended."""
        try:
            code: int | str = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = "none yet"
        self._errors.seek(0)
        lines = self._errors.read(64_000).decode(errors="replace").strip().splitlines()
        return f"exit code {code}" + (f", {lines[-1]}" if lines else "")
