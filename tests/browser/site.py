"""The real API on a real port, in a thread of the test's process, and what a test feeds it with.

Playwright's synchronous interface keeps an event loop of its own running in the test's thread, so nothing asynchronous
can run there: everything that touches the database runs on the server's loop, by `Site.feed`.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from api.app import create_app
from api.submission import PlanExperiment
from service import auth
from service.settings import ApiSettings
from service.storage.database import create_engine, create_sessions
from tests.factories import make_user

T = TypeVar("T")
START_DEADLINE_S = 60.0
_STEP_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A served database."""

    url: str
    """Without a slash at the end."""
    app: FastAPI
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_STEP_DEADLINE_S)

    def feed(self, write: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Runs `write(session)` in one transaction that is committed when it returns."""

        async def in_transaction() -> T:
            async with self.app.state.sessions.begin() as session:
                return await write(session)

        return self.run(in_transaction())

    def token_of(self, name: str, **user: Any) -> str:
        """An API token of the user of this name, who is made with `make_user(session, name, **user)` if unknown."""

        async def issue(session: AsyncSession) -> str:
            return (await auth.issue_token(session, await make_user(session, name, **user), "browser"))[1]

        return self.feed(issue)


@contextmanager
def serving(settings: ApiSettings, plan: PlanExperiment | None) -> Iterator[Site]:
    """The app with these settings, whose port is free; ready when the block begins, stopped when it ends."""
    engine = create_engine(settings.database_url.get_secret_value())
    app = create_app(settings, engine=engine, plan=plan)
    app.state.sessions = create_sessions(engine)
    config = uvicorn.Config(app, host=settings.host, port=settings.port, log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        asyncio.get_running_loop().call_soon(ready.set)
        await server.serve()
        await engine.dispose()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="site", daemon=True)
    thread.start()
    site = Site(url=f"http://{settings.host}:{settings.port}", app=app, loop=loop)
    try:
        assert ready.wait(START_DEADLINE_S), "the server's loop did not begin"
        site.run(_until_started(server, thread))
        yield site
    finally:
        if thread.is_alive():
            # Live streams end first: a browser would hold its connection open for as long as it is allowed to.
            site.run(app.state.live_updates.stop())
        server.should_exit = True
        thread.join(_STEP_DEADLINE_S)
        loop.close()


async def _until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    async with asyncio.timeout(START_DEADLINE_S):
        while not server.started and thread.is_alive():
            await asyncio.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
