"""One log line per request: who asked for what, and how it ended. No header and no query, so no token."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.request_ids import request_id_of

logger = logging.getLogger("api.access")
_QUIET = frozenset({"/livez", "/readyz"})


class AccessLog:
    """ASGI middleware. A live stream is logged when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and logs its end."""
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            duration_s = round(time.perf_counter() - started, 4)
            facts = {"method": scope["method"], "path": scope["path"], "status": status, "duration_s": duration_s}
            logger.info("request served", extra={**facts, "request_id": request_id_of(scope)})
