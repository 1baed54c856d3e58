"""The process's standard output and error, teed: Ray's job log keeps every byte, the service gets the lines.

print, logging, C libraries, Ray's copy of the actors' output
  -> fd 1 and fd 2 -> one pipe -> this thread -> the original fd 1
                                              -> sink(line), cut, rate-limited, without terminal colours
"""

import faulthandler
import fcntl
import logging
import os
import re
import select
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

MAX_LINE_CHARACTERS = 4000
NUM_LAST_LINES = 50
_CHUNK_BYTES = 65536
_POLL_S = 0.2
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PLAIN_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "vllm_process_name"}
"""What is no extra field of ours; Ray and vLLM mark the records of their processes, Ray with a leading underscore."""


class LogCapture:
    """Use as a context manager around the driver's work."""

    def __init__(self, sink: Callable[[str], None], *, lines_per_s: float = 200.0, burst: int = 2000) -> None:
        self._sink = sink
        self._limit = _RateLimit(lines_per_s=lines_per_s, burst=burst)
        self._last: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self._unfinished = b""
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="log-capture", daemon=True)

    def last_lines(self) -> list[str]:
        """The newest lines, oldest first, also those that the rate limit kept from the sink."""
        return list(self._last)

    def settle(self, deadline_s: float = 1.0) -> None:
        """Wait until all that was written before this call has been read, as long as the flow pauses at all."""
        _flush_python()
        limit = time.monotonic() + deadline_s
        # The pipe is looked at first: what has left it is not idle until it is taken.
        while (_num_unread(self._read_fd) or not self._idle.is_set()) and time.monotonic() < limit:
            time.sleep(0.005)

    def __enter__(self) -> "LogCapture":
        _flush_python()
        self._originals = os.dup(1), os.dup(2)
        self._read_fd, write_fd = os.pipe()
        os.dup2(write_fd, 1)
        os.dup2(write_fd, 2)
        os.close(write_fd)
        # A crash in C code writes its traceback when no thread of ours runs any more: not into the pipe.
        faulthandler.enable(file=self._originals[1])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        _flush_python()
        for original, fd in zip(self._originals, (1, 2), strict=True):
            os.dup2(original, fd)
        faulthandler.enable(file=2)
        # Child processes may hold the pipe open for long: the end of file is not waited for.
        self._stopping.set()
        self._thread.join(timeout=5.0)
        for fd in (self._read_fd, *self._originals):
            os.close(fd)

    def _run(self) -> None:
        while True:
            stopping = self._stopping.is_set()
            readable, _, _ = select.select([self._read_fd], [], [], 0.0 if stopping else _POLL_S)
            if readable:
                self._idle.clear()
                chunk = os.read(self._read_fd, _CHUNK_BYTES)
                if not chunk:
                    break
                # A full disk must not end this thread: the pipe would fill up and block whoever prints.
                with suppress(OSError):
                    _write_all(self._originals[0], chunk)
                self._take(chunk)
                self._idle.set()
            elif stopping:
                break
        if self._unfinished:
            self._take(b"\n")

    def _take(self, chunk: bytes) -> None:
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        if len(self._unfinished) > 4 * MAX_LINE_CHARACTERS:
            lines.append(self._unfinished)
            self._unfinished = b""
        for raw in lines:
            self._line(raw.decode("utf-8", "replace"))

    def _line(self, text: str) -> None:
        # A progress bar overwrites its line: only what it showed last is worth keeping.
        shown = _COLOURS.sub("", text.rstrip("\r").rpartition("\r")[2]).rstrip()[:MAX_LINE_CHARACTERS]
        if not shown:
            return
        self._last.append(shown)
        for line in self._limit.admit(shown, time.monotonic()):
            self._sink(line)


class _RateLimit:
    """A bucket of tokens; what overflows is counted and the count told before the next line that passes."""

    def __init__(self, *, lines_per_s: float, burst: int) -> None:
        self._lines_per_s, self._burst = lines_per_s, float(burst)
        self._tokens, self._at = float(burst), 0.0
        self._num_dropped = 0

    def admit(self, line: str, now: float) -> list[str]:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._lines_per_s)
        self._at = now
        if self._tokens < 1.0:
            self._num_dropped += 1
            return []
        self._tokens -= 1.0
        told = [f"… {self._num_dropped} lines dropped"] if self._num_dropped else []
        self._num_dropped = 0
        return [*told, line]


class FieldsFormatter(logging.Formatter):
    """Time, level, logger, event, then the record's extra fields as `key=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without its traceback."""
        fields = {key: value for key, value in record.__dict__.items() if key not in _PLAIN_RECORD and key[0] != "_"}
        shown = "".join(f" {key}={value}" for key, value in fields.items())
        return super().formatMessage(record) + shown


def configure_logging() -> None:
    """Our events to standard error, one line each; libraries only from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldsFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("workers").setLevel(logging.INFO)


def _num_unread(fd: int) -> int:
    answer = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def _flush_python() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _write_all(fd: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view) :]
