"""Webhooks and their deliveries as the API takes and answers them. The client reads these too."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from service.contract.status import ExperimentStatus
from service.contract.strict_model import WireModel

EVENTS = tuple(f"experiment.{status.value}" for status in ExperimentStatus)
DeliveryStatus = Literal["pending", "delivered", "dead"]
Url = Annotated[str, Field(min_length=8, max_length=2000, examples=["https://hooks.example.org/sedray"])]
"""https, and a public address; an admin's setting may allow others by name."""


def _known(events: list[str] | None) -> list[str] | None:
    unknown = sorted(set(events or ()) - set(EVENTS))
    if unknown:
        raise ValueError(f"unknown event {unknown[0]!r}; the events are {', '.join(EVENTS)}")
    return events


class NewWebhook(WireModel):
    """A webhook to be."""

    name: str = Field(min_length=1, max_length=100, examples=["chat"])
    url: Url
    events: list[str] = Field(default=[], max_length=50, examples=[["experiment.succeeded", "experiment.failed"]])
    """`experiment.<status>`; empty: all of them."""

    _events_are_known = field_validator("events")(_known)


class WebhookChangeIn(WireModel):
    """What is left out stays."""

    name: str | None = Field(default=None, min_length=1, max_length=100)
    url: Url | None = None
    events: list[str] | None = Field(default=None, max_length=50)
    is_active: bool | None = None

    _events_are_known = field_validator("events")(_known)


class WebhookOut(WireModel):
    """A webhook without its secret."""

    id: str
    project: str
    name: str
    url: str
    events: list[str]
    is_active: bool
    created_at: datetime
    secret_rotated_at: datetime | None


class WebhookWithSecret(WebhookOut):
    """A new webhook, or one with a new secret: it is told this once."""

    secret: str


class WebhookPage(WireModel):
    """All webhooks of a project, by name."""

    items: list[WebhookOut]


class DeliveryOut(WireModel):
    """One message and what became of it."""

    id: str
    """The header `webhook-id`: the same at each try."""
    event: str
    status: DeliveryStatus
    num_attempts: int
    next_attempt_at: datetime | None
    """Null once it is over."""
    last_status: int | None
    last_answer: str | None
    """The beginning of the last answer's body."""
    last_error: str | None
    body: dict[str, Any]
    created_at: datetime
    finished_at: datetime | None


class DeliveryPage(WireModel):
    """Messages, newest first."""

    items: list[DeliveryOut]
    next_before: str | None
