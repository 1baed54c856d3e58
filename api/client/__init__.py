"""The Python client of a sedray service. It needs pydantic and httpx only."""

from api.client.client import (
    ProblemReply,
    SedrayClient,
    SedrayError,
    ServiceUnreachable,
    StreamMessage,
    parse_stream,
)

__all__ = ["ProblemReply", "SedrayClient", "SedrayError", "ServiceUnreachable", "StreamMessage", "parse_stream"]
