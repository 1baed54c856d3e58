"""Lines of JSON to and from another process, over pipes that never block."""

import json
import os
import selectors
from typing import IO, Any

_CHUNK = 65536
MAX_REPLY_BYTES = 1024 * 1024


class PipeClosed(Exception):
    """The other side is gone, or talks nonsense."""


class LinePipes:
    """Both directions of one talk, over unbuffered pipes. A side that does not read holds up nobody."""

    def __init__(self, outgoing: IO[bytes], incoming: IO[bytes]) -> None:
        self._outgoing, self._incoming = outgoing, incoming
        self._unsent, self._unread = b"", b""
        for pipe in (outgoing, incoming):
            os.set_blocking(pipe.fileno(), False)

    def write(self, line: bytes) -> None:
        """Have a line sent, part of it perhaps by later calls of `exchange`."""
        self._unsent += line

    def register(self, selector: selectors.BaseSelector, data: object) -> None:
        """Wake the selector when `exchange` has something to do."""
        selector.register(self._incoming, selectors.EVENT_READ, data)
        if self._unsent:
            selector.register(self._outgoing, selectors.EVENT_WRITE, data)

    def exchange(self) -> list[dict[str, Any]]:
        """Send what fits, and return the objects that have come whole. Raises PipeClosed."""
        try:
            if self._unsent:
                self._unsent = self._unsent[self._send() :]
            return self._receive()
        except (BrokenPipeError, ConnectionResetError, ValueError) as error:
            raise PipeClosed(str(error)) from error

    def close(self) -> None:
        """Unsent lines are lost."""
        self._incoming.close()
        self._outgoing.close()

    def _send(self) -> int:
        try:
            return os.write(self._outgoing.fileno(), self._unsent[:_CHUNK])
        except BlockingIOError:
            return 0

    def _receive(self) -> list[dict[str, Any]]:
        try:
            chunk = os.read(self._incoming.fileno(), _CHUNK)
        except BlockingIOError:
            return []
        if not chunk:
            raise PipeClosed("end of output")
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        if len(self._unread) > MAX_REPLY_BYTES:
            raise PipeClosed(f"a line longer than {MAX_REPLY_BYTES} bytes")
        replies = [json.loads(line) for line in lines]
        if not all(isinstance(reply, dict) for reply in replies):
            raise PipeClosed("no JSON object")
        return replies
