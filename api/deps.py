"""What routes ask for: settings, sessions, and who calls. What the caller may do is asked for in `api.access`."""

from collections.abc import AsyncIterator
from typing import Annotated, cast
from urllib.parse import urlsplit

from fastapi import Cookie, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession

from api.live_stream import SharedLooks
from api.request_ids import request_id_of
from api.submission import PlanExperiment
from service import auth
from service.access import Principal
from service.errors import CrossSiteRequest, Unauthenticated
from service.live_updates import LiveUpdates
from service.log_archive import LogReader
from service.planning import DataPreviewer
from service.settings import ApiSettings
from service.storage.database import Sessions
from service.storage.tables import Attempt
from service.study_report.serving import StudyReports

TOKEN_COOKIE = "sedray_token"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_person = HTTPBearer(auto_error=False, scheme_name="ApiToken", description="A person's API token, `sr_…`.")
_driver = HTTPBearer(auto_error=False, scheme_name="AttemptToken", description="The token of one attempt, `sa_…`.")


# All of them coroutines: FastAPI would give each call of a plain function to a thread.
async def _settings(request: Request) -> ApiSettings:
    return cast(ApiSettings, request.app.state.settings)


async def _secret(request: Request) -> bytes:
    return cast(bytes, request.app.state.secret)


async def _sessions(request: Request) -> Sessions:
    return cast(Sessions, request.app.state.sessions)


async def _live_updates(request: Request) -> LiveUpdates:
    return cast(LiveUpdates, request.app.state.live_updates)


async def _looks(request: Request) -> Sessions:
    return cast(Sessions, request.app.state.looks)


async def _shared_looks(request: Request) -> SharedLooks:
    return cast(SharedLooks, request.app.state.shared_looks)


async def _log_reader(request: Request) -> LogReader:
    return cast(LogReader, request.app.state.log_reader)


async def _study_reports(request: Request) -> StudyReports:
    return cast(StudyReports, request.app.state.study_reports)


async def _plan(request: Request) -> PlanExperiment:
    return cast(PlanExperiment, request.app.state.plan)


async def _previewer(request: Request) -> DataPreviewer:
    return cast(DataPreviewer, request.app.state.previewer)


SettingsDep = Annotated[ApiSettings, Depends(_settings)]
SecretDep = Annotated[bytes, Depends(_secret)]
SessionsDep = Annotated[Sessions, Depends(_sessions)]
"""For routes that wait for something between two transactions: they open short sessions themselves."""
LiveUpdatesDep = Annotated[LiveUpdates, Depends(_live_updates)]
LooksDep = Annotated[Sessions, Depends(_looks)]
"""For a few statements that need no transaction around them."""
SharedLooksDep = Annotated[SharedLooks, Depends(_shared_looks)]
LogReaderDep = Annotated[LogReader, Depends(_log_reader)]
StudyReportsDep = Annotated[StudyReports, Depends(_study_reports)]
PlanDep = Annotated[PlanExperiment, Depends(_plan)]
PreviewerDep = Annotated[DataPreviewer, Depends(_previewer)]


async def _session(sessions: SessionsDep) -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as session:
        yield session


# Scope "function": the commit comes before the answer, so that what was acknowledged is stored.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
"""One transaction around the route; committed when it returns, rolled back when it raises."""


async def _current_user(
    request: Request,
    looks: LooksDep,
    settings: SettingsDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_person)],
    cookie: Annotated[str | None, Cookie(alias=TOKEN_COOKIE, include_in_schema=False)] = None,
) -> Principal:
    if bearer is None and cookie is None:
        raise Unauthenticated("no API token; send it as 'Authorization: Bearer sr_…', or log in on the page")
    if bearer is None and request.method not in _SAFE_METHODS:
        _refuse_other_sites(request, settings)
    token = bearer.credentials if bearer else cookie or ""
    async with looks() as session:
        return await auth.authenticate(session, token, request_id=request_id_of(request.scope))


CurrentUser = Annotated[Principal, Depends(_current_user)]
"""Whoever calls, by token or by the page's cookie. No session stays open after it.

It says who calls, not what they may do: that is asked for in `api.access`."""


async def _current_attempt(
    attempt_id: str,
    looks: LooksDep,
    secret: SecretDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_driver)],
) -> Attempt:
    if bearer is None:
        raise Unauthenticated("no attempt token; a driver sends the one from its token file")
    async with looks() as session:
        return await auth.attempt_from_token(session, secret, attempt_id, bearer.credentials)


CurrentAttempt = Annotated[Attempt, Depends(_current_attempt)]
"""The attempt in the path, whose own token the caller has. It may be over."""


def _refuse_other_sites(request: Request, settings: ApiSettings) -> None:
    """A browser sends cookies along by itself, so what changes something must come from our own page."""
    origin = urlsplit(request.headers.get("origin", "")).netloc
    ours = {request.headers.get("host", ""), urlsplit(settings.public_url).netloc}
    if not origin or origin not in ours:
        raise CrossSiteRequest(
            "with the page's cookie, changes are taken from the page itself only; use a bearer token"
        )
