"""Opening pages as somebody who is logged in."""

from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page

from api.deps import TOKEN_COOKIE
from tests.browser.site import Site

_STEP_DEADLINE_MS = 15_000


class Visit:
    """Opens pages for people, and remembers what their consoles complained of."""

    def __init__(self, browser: Browser, site: Site) -> None:
        self._browser = browser
        self._site = site
        self.complaints: list[str] = []
        """Errors and warnings of consoles and uncaught exceptions. Whoever provokes one takes it out again."""

    def __call__(self, path: str, *, user: str = "ada", context: dict[str, Any] | None = None, **made: Any) -> Page:
        """The loaded page, seen by this user, who is made by `make_user(session, user, **made)` at the first visit.

        `context` are options of Playwright's `new_context`.
        """
        options = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", "reduced_motion": "reduce"}
        opened = self._browser.new_context(base_url=self._site.url, **{**options, **(context or {})})
        opened.set_default_timeout(_STEP_DEADLINE_MS)
        token = self._site.token_of(user, **made)
        opened.add_cookies([{"name": TOKEN_COOKIE, "value": token, "url": self._site.url, "httpOnly": True}])
        page = opened.new_page()
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        answer = page.goto(path)
        assert answer is not None and answer.ok, f"{path} answered {answer and answer.status}"
        return page

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")
