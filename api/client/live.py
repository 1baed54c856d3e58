"""The live stream of an experiment: its messages, and how it goes on after a break. No network here."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from api.client.errors import ServiceUnreachable

SILENCE_S = 45.0
"""The service sends a comment every 15 s, so a longer silence means a dead connection."""
RETRY_STATUSES = frozenset({502, 503, 504})
_MAX_FAILURES = 12
_BETWEEN_S = 0.2
"""The service closes long streams; one goes on after the last message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMessage:
    """One server-sent message: `event`, `metrics`, `progress`, `logs` or `end`, with its decoded data."""

    event: str
    data: Any
    id: str | None


@dataclass(slots=True)
class MessageParser:
    """Lines of a `text/event-stream` to messages, comments left out."""

    _fields: dict[str, str] = field(default_factory=dict)

    def take(self, line: str) -> StreamMessage | None:
        """The message that this line ends, if it ends one."""
        if line.startswith(":"):
            return None
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            joined = name == "data" and name in self._fields
            self._fields[name] = f"{self._fields[name]}\n{value}" if joined else value
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        return StreamMessage(event=fields.get("event", "message"), data=json.loads(fields["data"]), id=fields.get("id"))


def parse_stream(lines: Iterator[str]) -> Iterator[StreamMessage]:
    """All messages of a stream."""
    parser = MessageParser()
    for line in lines:
        if (message := parser.take(line)) is not None:
            yield message


@dataclass(slots=True, kw_only=True)
class LiveStream:
    """Where one reader of a stream stands, over all its connections."""

    experiment_id: str
    last_event_id: str | None
    has_ended: bool = False
    _failures: int = 0

    def headers(self) -> dict[str, str]:
        """Of the next connection."""
        return {"Last-Event-ID": self.last_event_id} if self.last_event_id else {}

    def saw(self, message: StreamMessage) -> None:
        """Notes a message."""
        self._failures = 0
        self.last_event_id = message.id or self.last_event_id
        self.has_ended = message.event == "end"

    def pause_s(self, error: Exception | None) -> float:
        """Seconds until the next connection, after one that was closed or broke.

        Raises ServiceUnreachable after about a minute without any message.
        """
        if error is None:
            return _BETWEEN_S
        self._failures += 1
        if self._failures > _MAX_FAILURES:
            raise ServiceUnreachable(f"the live stream of {self.experiment_id} broke off: {error}") from error
        return float(min(0.5 * 2**self._failures, 5.0))
