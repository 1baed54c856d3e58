"""One report while it fills: items are serialised once, and the size is known all the while."""

import json

from service.contract.messages import LogLine, MetricPoint, Progress, RolloutSample, RunEvent, TokenView
from workers.reporter.outbox import Parcel

MAX_POINTS = 2000
MAX_BYTES = 1_000_000
_ENVELOPE_BYTES = 1000
"""Room for the field names, the sequence number and the progress."""
_COLUMN_BYTES = 60
"""Of a metric's columns, without its name and values."""

ReportItem = MetricPoint | LogLine | RolloutSample | TokenView | RunEvent
_FIELDS: dict[type[ReportItem], str] = {
    LogLine: "log_lines",
    RolloutSample: "rollouts",
    TokenView: "token_views",
    RunEvent: "events",
}


class Batch:
    """The items of one `WorkerReport`, each kind in the order in which it came; points in columns by metric."""

    def __init__(self) -> None:
        self._parts: dict[type[ReportItem], list[bytes]] = {kind: [] for kind in _FIELDS}
        self._columns: dict[str, tuple[list[bytes], list[bytes], list[bytes]]] = {}
        self._num_points = 0
        self._num_bytes = _ENVELOPE_BYTES

    def __bool__(self) -> bool:
        return bool(self._columns) or any(self._parts.values())

    def add(self, item: ReportItem) -> bool:
        """Take the item, or say False if the report is full. An empty report takes an item of any size."""
        if isinstance(item, MetricPoint):
            return self._add_point(item)
        part = item.model_dump_json().encode()
        if self._is_full(len(part) + 1):
            return False
        self._parts[type(item)].append(part)
        return True

    def seal(self, seq: int, progress: Progress | None) -> Parcel:
        """The finished body of a `WorkerReport`."""
        shown = progress.model_dump_json().encode() if progress else b"null"
        fields = [b'"seq":%d' % seq, b'"progress":%s' % shown, b'"series":[%s]' % b",".join(self._series())]
        fields += [b'"%s":[%s]' % (name.encode(), b",".join(self._parts[kind])) for kind, name in _FIELDS.items()]
        return Parcel(call="reports", body=b"{%s}" % b",".join(fields))

    def _add_point(self, point: MetricPoint) -> bool:
        facts = point.model_dump(mode="json")
        step, ts, value = (_json(facts[name]) for name in ("step", "ts", "value"))
        new_bytes = 0 if point.name in self._columns else _COLUMN_BYTES + len(_json(point.name))
        if self._num_points >= MAX_POINTS or self._is_full(new_bytes + len(step) + len(ts) + len(value) + 3):
            return False
        for column, part in zip(self._columns.setdefault(point.name, ([], [], [])), (step, ts, value), strict=True):
            column.append(part)
        self._num_points += 1
        return True

    def _is_full(self, num_bytes: int) -> bool:
        """Whether so many bytes more are too many; if not, they are counted."""
        if self._num_bytes + num_bytes > MAX_BYTES and self:
            return True
        self._num_bytes += num_bytes
        return False

    def _series(self) -> list[bytes]:
        return [
            b'{"name":%s,"steps":[%s],"ts":[%s],"values":[%s]}' % (_json(name), *(b",".join(part) for part in parts))
            for name, parts in self._columns.items()
        ]


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
