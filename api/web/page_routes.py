"""How pages answer errors: a person without a token is sent to the log-in, every other problem becomes a page."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi.templating import Jinja2Templates

from api.problems import status_of
from api.results import shown_bytes
from api.web.formats import shown_duration, shown_metric, shown_plain
from service.errors import SedrayError, Unauthenticated

HERE = Path(__file__).parent
NAVIGATION = (
    ("/queue", "Queue"),
    ("/", "Experiments"),
    ("/studies", "Studies"),
    ("/compare", "Compare"),
    ("/new", "New"),
    ("/cluster", "Cluster"),
)
"""Path and label, in the order in which every page shows them."""


def _shared(request: Request) -> dict[str, Any]:
    """What every page's frame shows."""
    return {"ray_dashboard_url": request.app.state.settings.ray_dashboard_public_url}


def _is_here(request: Request, path: str) -> bool:
    """Whether the page lies under a path of the navigation; one experiment lies under their list."""
    here = request.url.path
    if path == "/":
        return here == "/" or here.startswith("/experiments")
    return here == path or here.startswith(f"{path}/")


templates = Jinja2Templates(directory=HERE / "templates", context_processors=[_shared])
templates.env.globals |= {"navigation": NAVIGATION, "is_here": _is_here}
templates.env.filters |= {
    "duration": shown_duration,
    "bytes": shown_bytes,
    "plain": shown_plain,
    "metric": shown_metric,
}

SECURITY_HEADERS = {
    # Text from runs is escaped; should that ever fail, the browser still runs no script but ours.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route for people's browsers."""

    def get_route_handler(self) -> Handler:
        """The route's handler with our errors turned into pages."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handler(request)
            except Unauthenticated:
                response = RedirectResponse(f"/login?next={quote(request.url.path)}", status_code=303)
            except SedrayError as error:
                context = {"title": error.title, "detail": error.message}
                response = templates.TemplateResponse(request, "problem.html", context, status_code=status_of(error))
            response.headers.update(SECURITY_HEADERS)
            return response

        return answer
