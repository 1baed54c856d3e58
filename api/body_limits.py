"""Refuses bodies that are longer than their route needs, before they are in memory."""

from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem_of
from service.errors import BodyTooLarge

MAX_BODY_BYTES = 1_000_000
"""Of a specification and everything else that people send."""
MAX_REPORT_BYTES = 8_000_000
"""Of what drivers send: points, lines and completions of several seconds."""
_DRIVERS = "/api/v1/attempts/"


class BodyLimits:
    """ASGI middleware. Goes by the declared length, and counts where none is declared."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = MAX_REPORT_BYTES if scope["path"].startswith(_DRIVERS) else MAX_BODY_BYTES
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await problem_of(_too_large(limit))(scope, receive, send)
            return
        await self._app(scope, _counting(receive, limit), send)


def _counting(receive: Receive, limit: int) -> Callable[[], Awaitable[Message]]:
    num_bytes = 0

    async def counted() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            # The framework lets only this kind of exception through while it reads a body.
            raise HTTPException(413, _too_large(limit).message)
        return message

    return counted


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is longer than the {limit:,} bytes that this route takes; send less at once")
