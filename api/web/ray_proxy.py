"""Ray's dashboard below `/ray/` for admins, so that nobody needs the cluster's token or a way to its network.

Off unless `SEDRAY_RAY_PROXY_URL` is set. It is the one place where the API reaches Ray, and it only looks: GET requests
of the dashboard's own views, named below. What could start, stop or slow down anything on the cluster is not passed on,
nor are log streams that need a web socket. Neither side's credentials reach the other: the browser's cookie ends here,
the cluster's token is added here.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, cast

import httpx
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse

from api.access import AdminReader
from api.web.page_routes import PageRoute
from service.errors import NotFound, RayUnreachable
from service.settings import ApiSettings

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_FILES = frozenset({"", "index.html", "favicon.ico", "cluster_id", "nodes", "timezone", "usage_stats_enabled"})
_FOLDERS = (
    "static/",
    "nodes/",
    "logical/actors",
    "api/authentication_mode",
    "api/cluster_status",
    "api/component_activities",
    "api/data/datasets/",
    "api/grafana_health",
    "api/jobs/",
    "api/profiling_enabled",
    "api/prometheus_health",
    "api/serve/applications/",
    "api/train/v2/runs",
    "api/v0/actors",
    "api/v0/cluster_events",
    "api/v0/cluster_metadata",
    "api/v0/jobs",
    "api/v0/logs",
    "api/v0/nodes",
    "api/v0/objects",
    "api/v0/placement_groups",
    "api/v0/runtime_env",
    "api/v0/tasks",
    "api/v0/workers",
    "api/version",
)
"""The views of Ray 2.60. Not among them: profilers, `api/v0/delay`, `test/dump`, packages."""
_PASSED_ON = ("content-type", "last-modified", "etag")
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class RayProxy:
    """A connection pool to one dashboard."""

    def __init__(self, url: str, token_file: Path, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`token_file` is read for each request, so that a new token needs no restart."""
        self._token_file = token_file
        # The token of the cluster is for the cluster: it goes through no proxy that the environment names.
        self._http = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT, transport=transport, trust_env=False)

    async def get(self, path: str, query: str) -> httpx.Response:
        """The answer, its body not read yet; the caller closes it. Raises RayUnreachable."""
        try:
            token = self._token_file.read_text().strip()
            url = httpx.URL(path=f"/{path}", query=query.encode())
            request = self._http.build_request("GET", url, headers={"Authorization": f"Bearer {token}"})
            return await self._http.send(request, stream=True)
        except (httpx.HTTPError, OSError) as error:
            raise RayUnreachable(f"no answer from Ray's dashboard: {error}") from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()


def open_proxy(settings: ApiSettings) -> RayProxy | None:
    """As the operator has set it; None: off."""
    if settings.ray_proxy_url is None or settings.ray_proxy_token_file is None:
        return None
    return RayProxy(settings.ray_proxy_url, settings.ray_proxy_token_file)


async def _proxy(request: Request) -> RayProxy:
    return cast(RayProxy, request.app.state.ray_proxy)


@router.get("/ray/{path:path}")
async def show_ray(
    request: Request, path: str, admin: AdminReader, proxy: Annotated[RayProxy, Depends(_proxy)]
) -> StreamingResponse:
    """What the dashboard answers, as it comes."""
    if not may_pass(path):
        raise NotFound(f"/{path} is none of the dashboard's views that are shown here")
    answer = await proxy.get(path, request.url.query)
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    return StreamingResponse(_body(answer), answer.status_code, headers=headers)


def may_pass(path: str) -> bool:
    """Whether a path is one of the dashboard's views, in whatever way it is written."""
    is_plain = path.isascii() and path.isprintable() and not any(part in path for part in ("..", "//", "\\", "%"))
    return is_plain and (path in _FILES or path.startswith(_FOLDERS))


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_bytes():
            yield part
    finally:
        await answer.aclose()
