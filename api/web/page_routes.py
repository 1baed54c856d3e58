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
from service.errors import SedrayError, Unauthenticated

HERE = Path(__file__).parent
templates = Jinja2Templates(directory=HERE / "templates")

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
