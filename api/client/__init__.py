"""The Python client of a sedray service. It needs pydantic and httpx only."""

from api.client.client import AsyncSedrayClient, SedrayClient
from api.client.errors import (
    Conflict,
    Forbidden,
    Invalid,
    MissingLibrary,
    NoConnection,
    NotFound,
    ProblemReply,
    SedrayError,
    ServiceUnreachable,
    Unauthorized,
    UnknownAnswer,
)
from api.client.live import StreamMessage, parse_stream
from api.client.retrying import RetryPolicy

__all__ = [
    "AsyncSedrayClient",
    "Conflict",
    "Forbidden",
    "Invalid",
    "MissingLibrary",
    "NoConnection",
    "NotFound",
    "ProblemReply",
    "RetryPolicy",
    "SedrayClient",
    "SedrayError",
    "ServiceUnreachable",
    "StreamMessage",
    "Unauthorized",
    "UnknownAnswer",
    "parse_stream",
]
