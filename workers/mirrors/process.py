"""`python -m workers.mirrors.process`: one mirror, until its input ends. What it stands on may hang or crash here."""

import json
import os
import select
import signal
import sys
import time
from typing import BinaryIO

from workers.mirrors.orders import MirrorOrders, Point, RunEnd
from workers.mirrors.targets import Target, open_target

FLUSH_S = 2.0
FLUSH_POINTS = 1000
_ORPHAN_S = 10
"""For the last words of a process whose driver is gone; then SIGALRM ends it."""
_CHUNK = 1 << 16


def main() -> None:
    """Serve one run; exits 1 with a reason where the tracker fails."""
    incoming, outgoing = _take_pipes()
    try:
        lines = _Lines(incoming)
        target = open_target(MirrorOrders.model_validate_json(lines.first()))
        _say(outgoing, started=target.start())
        count = _serve(lines, target)
        _say(outgoing, done=count)
    except ImportError as error:
        _say(outgoing, error=f"{error}; the workers' environment needs: pip install 'sedray[mirrors]'")
        sys.exit(1)
    except BaseException as error:
        _say(outgoing, error=f"{type(error).__name__}: {error}"[:1500])
        sys.exit(1)


def _serve(lines: "_Lines", target: Target) -> int:
    """Hand points on in groups; returns how many."""
    waiting: list[Point] = []
    count, due = 0, time.monotonic() + FLUSH_S
    end: RunEnd | None = None
    while end is None:
        for line in lines.within(max(0.0, due - time.monotonic())):
            message = json.loads(line)
            waiting += [(name, step, ts, value) for name, step, ts, value in message.get("points", ())]
            end = message.get("end", end)
        if lines.closed and end is None:
            signal.alarm(_ORPHAN_S)
            end = "RUNNING"
        if waiting and (end or len(waiting) >= FLUSH_POINTS or time.monotonic() >= due):
            target.write(waiting)
            count += len(waiting)
            waiting = []
        if time.monotonic() >= due:
            due = time.monotonic() + FLUSH_S
    target.finish(end)
    return count


class _Lines:
    """Lines of a pipe, with a limit on the wait for them."""

    def __init__(self, incoming: BinaryIO) -> None:
        self._incoming = incoming
        self._rest = b""
        self.closed = False

    def first(self) -> bytes:
        """The first line, however long it takes."""
        while b"\n" not in self._rest and not self.closed:
            self._read()
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def within(self, limit_s: float) -> list[bytes]:
        """The whole lines that have come, waiting for more at most so long."""
        if not self.closed and select.select([self._incoming], [], [], limit_s)[0]:
            self._read()
        *lines, self._rest = self._rest.split(b"\n")
        return [line for line in lines if line]

    def _read(self) -> None:
        chunk = os.read(self._incoming.fileno(), _CHUNK)
        self._rest += chunk
        self.closed = not chunk


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The way to the driver, out of reach of what a tracker reads or prints."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return incoming, outgoing


def _say(outgoing: BinaryIO, **words: object) -> None:
    outgoing.write(json.dumps(words).encode() + b"\n")
    outgoing.flush()


if __name__ == "__main__":
    main()
