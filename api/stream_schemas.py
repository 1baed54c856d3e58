"""Data of the live stream's messages, beside `event` (an Event) and `progress` (a Progress or null). The client reads
these too: pydantic and the contract only."""

from service.contract.status import EndReason, ExperimentStatus
from service.contract.strict_model import WireModel


class MetricValue(WireModel):
    """The newest value of a metric."""

    name: str
    step: int
    value: float


class MetricValues(WireModel):
    """Data of `metrics`: the metrics that changed."""

    values: list[MetricValue]


class LastLogLine(WireModel):
    """Data of `logs`: there are lines up to this id."""

    last_id: int


class End(WireModel):
    """Data of `end`."""

    status: ExperimentStatus
    end_reason: EndReason | None
