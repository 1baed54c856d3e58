"""`SedrayClient` and `AsyncSedrayClient`: the same calls, blocking and in an event loop.

    with SedrayClient("http://127.0.0.1:8700", token) as client:
        experiment = client.submit(spec)
        for message in client.stream(experiment.id):
            ...

The HTTP client is a parameter (`http=`), so tests talk to the app in process.
"""

from types import TracebackType
from typing import Self

import httpx

from api.access_schemas import Me
from api.client.access import AuditLog, Projects, Tokens, Users
from api.client.blocking import BlockingTransport
from api.client.calls import AnyTransport, AsyncTransport, Transport, call
from api.client.comparison import ComparisonCalls
from api.client.connection import find_connection
from api.client.event_loop import EventLoopTransport
from api.client.experiments import ExperimentCalls
from api.client.exports import ExportCalls
from api.client.findings import DataCalls, LogCalls, MetricCalls, RolloutCalls
from api.client.frames import Frames
from api.client.imports import ImportCalls
from api.client.operation import OperationCalls
from api.client.queue import QueueCalls
from api.client.requests import Request, get, path
from api.client.retrying import RetryPolicy
from api.client.studies import StudyCalls
from api.client.study_reports import StudyReportCalls
from api.client.webhooks import Webhooks

_TIMEOUT_S = 30.0
_PATIENT = RetryPolicy()


class _Calls(
    ExperimentCalls[AnyTransport],
    MetricCalls[AnyTransport],
    LogCalls[AnyTransport],
    RolloutCalls[AnyTransport],
    DataCalls[AnyTransport],
    ComparisonCalls[AnyTransport],
    QueueCalls[AnyTransport],
    OperationCalls[AnyTransport],
    StudyCalls[AnyTransport],
    StudyReportCalls[AnyTransport],
    ImportCalls[AnyTransport],
    ExportCalls[AnyTransport],
):
    """All calls, over one transport."""

    def __init__(self, transport: AnyTransport) -> None:
        super().__init__(transport)
        self.projects = Projects(transport)
        self.users = Users(transport)
        self.tokens = Tokens(transport)
        self.webhooks = Webhooks(transport)
        self.audit = AuditLog(transport)
        self.frames = Frames(transport)

    @call
    def me(self) -> Request[Me]:
        """Whom the token belongs to."""
        return get(Me, path("me"))


class SedrayClient(_Calls[Transport]):
    """Blocking client. What only reads, and what carries an idempotency key as submissions do, is sent again where no
    answer came; what may not be repeated, such as issuing a token, is sent once."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        http: httpx.Client | None = None,
        timeout_s: float = _TIMEOUT_S,
        retries: RetryPolicy = _PATIENT,
    ) -> None:
        """`timeout_s` bounds the silence within one try, `retries.deadline_s` all tries of a request together."""
        self._blocking = BlockingTransport(
            http or httpx.Client(), _base(base_url), _headers(token), timeout_s=timeout_s, retries=retries
        )
        super().__init__(self._blocking)

    @classmethod
    def connect(cls, profile: str | None = None) -> Self:
        """A client of the service that `sedray` would call here: environment, running local stack, or a profile.

        Raises NoConnection.
        """
        found = find_connection(profile=profile)
        return cls(found.url, found.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._blocking.close()


class AsyncSedrayClient(_Calls[AsyncTransport]):
    """The same client for an event loop: `await client.experiment(id)`, `async for message in client.stream(id)`."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        http: httpx.AsyncClient | None = None,
        timeout_s: float = _TIMEOUT_S,
        retries: RetryPolicy = _PATIENT,
    ) -> None:
        """As of SedrayClient."""
        self._event_loop = EventLoopTransport(
            http or httpx.AsyncClient(), _base(base_url), _headers(token), timeout_s=timeout_s, retries=retries
        )
        super().__init__(self._event_loop)

    @classmethod
    def connect(cls, profile: str | None = None) -> Self:
        """As of SedrayClient."""
        found = find_connection(profile=profile)
        return cls(found.url, found.token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._event_loop.close()


def _base(url: str) -> str:
    return url.rstrip("/") + "/api/v1"


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
