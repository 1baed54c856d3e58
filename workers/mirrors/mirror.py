"""The driver's side of one mirror: points go in without waiting, and a process of its own hands them on."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import JsonValue

from service.contract.messages import MetricPoint
from service.contract.mirrors import MIRROR_BEHIND, MIRROR_FAILED, MIRROR_FINISHED, MIRROR_STARTED
from workers.mirrors.orders import MirrorOrders, RunEnd, end_line, points_line

logger = logging.getLogger(__name__)

MAX_WAITING = 50_000
"""Points that may wait for a tracker; what comes then is dropped and counted."""
_COMMAND = (sys.executable, "-m", "workers.mirrors.process")
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_KEPT_TOO = ("PYTHONPATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_ATTEMPT = "SEDRAY_ATTEMPT_ID"
"""By which what a lost driver leaves behind is found and swept."""
_LAST_LINES = 8
_JOIN_S = 5.0
"""For threads whose pipes have ended: long for a machine that is busy, never for one that is not."""

Tell = Callable[[str, str, Mapping[str, JsonValue]], None]
"""Reports an event: kind, message, detail."""


class Mirror:
    """One tracker. No method raises or waits but `close`, which ends by its deadline."""

    def __init__(
        self,
        orders: MirrorOrders,
        tell: Tell,
        *,
        home: Path,
        command: Sequence[str] = _COMMAND,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Start the process; `home` is a scratch folder for what its tool keeps."""
        self._kind = orders.mirror.type
        self._key = orders.key
        self._tell, self._max_waiting = tell, max_waiting
        self._waiting: deque[bytes] = deque()
        self._num_waiting = self._num_dropped = 0
        self._sizes: deque[int] = deque()
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._failure_told = False
        self._why: str | None = None
        self._num_done: int | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._process = _start(command, home)
        self._put(orders.model_dump_json().encode() + b"\n", 0)
        self._threads = [
            threading.Thread(target=run, name=f"mirror-{self._kind}-{name}", daemon=True)
            for name, run in (("lines", self._keep_lines), ("send", self._send), ("hear", self._hear))
        ]
        for thread in self._threads:
            thread.start()

    def points(self, points: Sequence[MetricPoint]) -> None:
        """Take some values, or drop and count them."""
        if self._over.is_set() or not points:
            return
        with self._changed:
            fits = self._num_waiting + len(points) <= self._max_waiting
            first_drop = not fits and not self._num_dropped
            self._num_dropped += 0 if fits else len(points)
        if fits:
            self._put(points_line(points), len(points))
        elif first_drop:
            self._event(
                MIRROR_BEHIND,
                f"the mirror in {self._kind} does not keep up: values are dropped there and stay whole here; "
                "`sedray export` can bring them over afterwards",
            )

    def end(self, end: RunEnd) -> None:
        """Say that nothing more will come; the process writes what waits, and ends."""
        if not self._over.is_set():
            self._put(end_line(end), 0)

    def close(self, deadline_s: float) -> None:
        """Wait for the process to end, and kill it at the deadline. Tells of it in one event."""
        if not self._over.is_set():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, deadline_s))
        in_time = self._process.poll() is not None
        self.kill()
        for thread in self._threads:
            thread.join(_JOIN_S)
        detail: dict[str, JsonValue] = {"num_mirrored": self._num_done, "num_dropped": self._num_dropped}
        if self._num_done is not None:
            dropped = f", {self._num_dropped} dropped" if self._num_dropped else ""
            self._event(MIRROR_FINISHED, f"mirrored in {self._kind}: {self._num_done} values{dropped}", detail)
        elif not in_time:
            self._fail("it did not end in time after the run's end, and was killed")
        else:
            self._fail("its process ended without a last word")

    def kill(self) -> None:
        """End the process and what it has started, at once."""
        self._over.set()
        with self._changed:
            self._changed.notify_all()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_JOIN_S)

    def _put(self, line: bytes, size: int) -> None:
        with self._changed:
            self._waiting.append(line)
            self._sizes.append(size)
            self._num_waiting += size
            self._changed.notify_all()

    def _send(self) -> None:
        """The pipe blocks while the other side does not read; then points wait, and at last are dropped."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError), self._process.stdin as pipe:
            while not self._over.is_set():
                with self._changed:
                    while not self._waiting and not self._over.is_set():
                        self._changed.wait(1.0)
                    if self._over.is_set():
                        return
                    line, size = self._waiting.popleft(), self._sizes.popleft()
                pipe.write(line)
                pipe.flush()
                with self._changed:
                    self._num_waiting -= size

    def _hear(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for line in pipe:
                with suppress(ValueError):
                    self._take(json.loads(line))
        if self._num_done is None and (self._why or not self._over.is_set()):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_JOIN_S)
            self._threads[0].join(_JOIN_S)  # its last lines say more than its exit code
            self._fail(f"its process ended with exit code {self._process.returncode}")

    def _take(self, words: object) -> None:
        match words:
            case {"started": str(where)}:
                self._event(MIRROR_STARTED, f"mirrored in {self._kind}: {where}", {"where": where})
            case {"done": int(count)}:
                self._num_done = count
            case {"error": str(why)}:
                self._why = why
                self._over.set()

    def _keep_lines(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            for line in pipe:
                self._last_lines.append(line.decode(errors="replace").rstrip()[:500])

    def _fail(self, otherwise: str) -> None:
        """Once: the run goes on without the mirror. The reason is what the process said, if it said one."""
        if self._failure_told:
            return
        self._failure_told = True
        self._over.set()
        lines: list[JsonValue] = [self._without_key(line) for line in self._last_lines]
        self._event(
            MIRROR_FAILED,
            f"the mirror in {self._kind} has ended, and the run goes on without it: {self._why or otherwise}",
            {"last_lines": lines, "num_dropped": self._num_dropped},
        )

    def _event(self, kind: str, message: str, detail: Mapping[str, JsonValue] | None = None) -> None:
        try:
            self._tell(kind, self._without_key(message), {"mirror": self._kind, **(detail or {})})
        except Exception:
            logger.exception("mirror event not told", extra={"mirror": self._kind})

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _start(command: Sequence[str], home: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, with nothing of the driver's environment that could be a secret."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = {name: os.environ[name] for name in (*_KEPT, *_KEPT_TOO, _ATTEMPT) if name in os.environ}
    tools = {f"WANDB_{name}_DIR": str(home) for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    code = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (code, kept.get("PYTHONPATH"))))
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        env={**kept, **tools, "HOME": str(home), "PYTHONPATH": path, "DO_NOT_TRACK": "true"},
        start_new_session=True,
    )
