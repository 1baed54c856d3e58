"""The death certificate of an attempt: what it died of, how that is known, and what a person can do about it."""

from datetime import datetime
from typing import Literal

from service.contract.failures import FailureClass
from service.contract.status import EndReason
from service.contract.strict_model import WireModel

OomKind = Literal["gpu", "host", "cgroup", "kernel", "ray"]


class OomSign(WireModel):
    """One sign that memory ran out."""

    kind: OomKind
    """Who says so: the GPU's allocator, the interpreter, the container's memory controller, the kernel, or Ray."""
    detail: str


class StackDump(WireModel):
    """The threads of one process that hung, or why they could not be looked at."""

    process: str
    text: str


class LogTail(WireModel):
    """The newest lines of one source, oldest first."""

    source: str
    lines: list[str]


class DeathCertificate(WireModel):
    """Of one ended attempt."""

    experiment_id: str
    attempt_id: str
    attempt_number: int
    ended_at: datetime
    issued_at: datetime | None
    """When it was laid down; None while Ray may still hold something of the attempt, and more may become known."""
    reason: EndReason
    failure: FailureClass | None
    """None for an end that is no failure."""
    message: str
    exit_code: int | None
    """Of the driver's process, where Ray has seen it."""
    signal: str | None
    """Name of the signal that ended the driver."""
    out_of_memory: list[OomSign]
    stage: str | None
    phase: str | None
    step: int | None
    error: str | None
    """Name of the exception's class."""
    traceback: str | None
    ray_status: str | None
    ray_error_type: str | None
    ray_message: str | None
    dead_actors: list[str]
    """What Ray says of the actors that it saw die, one line each."""
    stacks: list[StackDump]
    """Of the processes that were alive and stood still."""
    log_tails: list[LogTail]
    what_followed: str
    """What became of the experiment: a retry, or its end."""
    what_to_do: list[str]
