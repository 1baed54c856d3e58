"""Each request has an id: the caller's own (`X-Request-Id`) if it is harmless, else a new one. The answer has it."""

import re
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.storage.identifiers import new_id

_HEADER = b"x-request-id"
_HARMLESS = re.compile(rb"[A-Za-z0-9._-]{8,64}")


class RequestIds:
    """ASGI middleware; the outermost, so that every log line and every answer has the id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Notes the id in the scope and passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(_HEADER, b"")
        request_id = given if _HARMLESS.fullmatch(given) else new_id("req").encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), (_HEADER, request_id)]}
            await send(message)

        await self._app(scope, receive, naming)


def request_id_of(scope: Scope) -> str | None:
    """The id, where the middleware has been."""
    return cast(str | None, scope.get("state", {}).get("request_id"))
