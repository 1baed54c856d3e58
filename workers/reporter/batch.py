"""One report while it fills: items are serialised once and the size is exact."""

from service.contract.messages import LogLine, MetricPoint, Progress, RolloutSample, RunEvent, TokenView
from workers.reporter.outbox import Parcel

MAX_POINTS = 2000
MAX_BYTES = 1_000_000
_ENVELOPE_BYTES = 1000
"""Room for the field names, the sequence number and the progress."""

ReportItem = MetricPoint | LogLine | RolloutSample | TokenView | RunEvent
_FIELDS: dict[type[ReportItem], str] = {
    MetricPoint: "points",
    LogLine: "log_lines",
    RolloutSample: "rollouts",
    TokenView: "token_views",
    RunEvent: "events",
}


class Batch:
    """The items of one `WorkerReport`, in the order in which they came within each kind."""

    def __init__(self) -> None:
        self._parts: dict[type[ReportItem], list[bytes]] = {kind: [] for kind in _FIELDS}
        self._num_bytes = _ENVELOPE_BYTES

    def __bool__(self) -> bool:
        return any(self._parts.values())

    def add(self, item: ReportItem) -> bool:
        """Take the item, or say False if the report is full. An empty report takes an item of any size."""
        part = item.model_dump_json().encode()
        full = len(self._parts[MetricPoint]) >= MAX_POINTS or self._num_bytes + len(part) > MAX_BYTES
        if full and self:
            return False
        self._parts[type(item)].append(part)
        self._num_bytes += len(part) + 1
        return True

    def seal(self, seq: int, progress: Progress | None) -> Parcel:
        """The finished body of a `WorkerReport`."""
        shown = progress.model_dump_json().encode() if progress else b"null"
        fields = [b'"seq":%d' % seq, b'"progress":%s' % shown]
        fields += [b'"%s":[%s]' % (name.encode(), b",".join(self._parts[kind])) for kind, name in _FIELDS.items()]
        return Parcel(call="reports", body=b"{%s}" % b",".join(fields))
