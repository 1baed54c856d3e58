"""One log line per request: who asked for what, and how it ended. No header and no query, so no token.

Each is counted by its route as well, and traced where traces are wanted.
"""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.request_ids import request_id_of
from service.telemetry import REQUEST_SECONDS, REQUESTS
from service.tracing import span

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

        with span(f"{scope['method']} request", headers=_headers_of(scope)) as traced:
            try:
                await self._app(scope, receive, noting)
            finally:
                duration_s = time.perf_counter() - started
                _count(scope, status, duration_s)
                if traced is not None:
                    traced.update_name(f"{scope['method']} {_route_of(scope)}")
                    traced.set_attribute("http.response.status_code", status)
                facts = {"method": scope["method"], "path": scope["path"], "status": status}
                facts |= {"duration_s": round(duration_s, 4), "request_id": request_id_of(scope)}
                logger.info("request served", extra=facts)


def _count(scope: Scope, status: int, duration_s: float) -> None:
    """A stream's time says how long somebody watched, not how fast the service is."""
    route = _route_of(scope)
    REQUESTS.labels(scope["method"], route, status).inc()
    if not route.endswith("/stream"):
        REQUEST_SECONDS.labels(scope["method"], route).observe(duration_s)


def _route_of(scope: Scope) -> str:
    """The route's template: few enough to count by."""
    return str(getattr(scope.get("route"), "path", "other"))


def _headers_of(scope: Scope) -> dict[str, str]:
    """Those by which a caller's trace goes on."""
    wanted = (b"traceparent", b"tracestate")
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in wanted}
