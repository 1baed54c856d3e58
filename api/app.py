"""The application: state, routers and problem handlers put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api.access_log import AccessLog
from api.body_limits import BodyLimits
from api.live_stream import SharedLooks
from api.oidc.provider import OidcProvider
from api.openapi_document import improve_openapi, operation_id
from api.problems import install_problem_handlers
from api.request_ids import RequestIds
from api.routers import (
    attempts,
    audit,
    bulk,
    certificates,
    cluster,
    compare,
    data,
    diagnosis,
    experiments,
    exported_models,
    health,
    imports,
    lineage,
    logs,
    metric_axes,
    metrics,
    outputs,
    projects,
    queue,
    queue_orders,
    retention,
    rollouts,
    spec_checks,
    stream,
    studies,
    study_reports,
    timeline,
    token_views,
    tokens,
    users,
    webhooks,
)
from api.sign_of_life import keep_recording_life
from api.submission import PlanExperiment
from api.web import (
    account,
    cluster_page,
    compare_page,
    experiments_page,
    login,
    new_page,
    pages,
    queue_page,
    ray_proxy,
    single_sign_on,
    static_files,
    study_pages,
)
from api.web.failed_logins import FailedLogins
from migrations.apply import head_revision
from service.live_updates import LiveUpdates
from service.log_archive import LogReader
from service.planning import DataPreviewer, plan_experiment
from service.settings import ApiSettings
from service.storage.database import create_engine, create_looks, create_sessions
from service.study_report.serving import StudyReports
from service.telemetry import WATCHERS

PREFIX = "/api/v1"
_DESCRIPTION = """Queue SFT-then-RL experiments, watch them live, and compare what came out.

People send `Authorization: Bearer <api token>`; drivers of running experiments send the token of their attempt.
Every error is an RFC 9457 problem document whose `code` is stable."""


def create_app(
    settings: ApiSettings, *, engine: AsyncEngine | None = None, plan: PlanExperiment | None = None
) -> FastAPI:
    """The API and the page. Without an `engine` it makes its own from the settings and disposes of it at the end.

    `plan` turns a specification into its derived numbers, or raises CannotRun; left out: by looking at its files.
    """
    # FastAPI's own viewers of the OpenAPI document load their scripts from other hosts; ours serves no such page.
    app = FastAPI(
        title="sedray",
        version="1",
        description=_DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=operation_id,
    )
    app.state.settings = settings
    app.state.secret = settings.secret_key()
    app.state.engine = engine
    app.state.plan = plan or partial(plan_experiment, workers_python=settings.preview_python)
    app.state.previewer = DataPreviewer(python=settings.preview_python, timeout_s=settings.preview_timeout_s)
    app.state.head_revision = head_revision()
    app.state.failed_logins = FailedLogins()
    app.state.oidc = None
    app.state.ray_proxy = ray_proxy.open_proxy(settings)
    people = (projects, users, tokens, audit, webhooks, diagnosis)
    runs = (
        bulk,
        spec_checks,
        experiments,
        certificates,
        compare,
        data,
        queue,
        queue_orders,
        cluster,
        metrics,
        metric_axes,
        logs,
        rollouts,
        token_views,
        timeline,
        lineage,
        outputs,
        stream,
        retention,
        studies,
        study_reports,
        imports,
        exported_models,
    )
    for module in (*runs, *people, attempts):
        app.include_router(module.router, prefix=PREFIX)
    for module in (
        health,
        login,
        single_sign_on,
        pages,
        new_page,
        experiments_page,
        queue_page,
        cluster_page,
        study_pages,
        compare_page,
        account,
        static_files,
    ):
        app.include_router(module.router)
    if app.state.ray_proxy is not None:
        app.include_router(ray_proxy.router)
    app.mount("/static", static_files.folder)
    app.add_middleware(BodyLimits)
    app.add_middleware(AccessLog)
    app.add_middleware(RequestIds)
    install_problem_handlers(app)
    improve_openapi(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: ApiSettings = app.state.settings
    database_url = settings.database_url.get_secret_value()
    own_engine = (
        None if app.state.engine is not None else create_engine(database_url, pool_size=20, max_overflow=5, pings=False)
    )
    engine = own_engine or app.state.engine
    app.state.sessions, app.state.looks = create_sessions(engine), create_looks(engine)
    app.state.shared_looks = SharedLooks(app.state.sessions)
    app.state.log_reader = LogReader(app.state.sessions, settings.output_dir)
    app.state.study_reports = StudyReports(app.state.sessions)
    app.state.live_updates = LiveUpdates(database_url)
    app.state.live_updates.start()
    WATCHERS.set_function(lambda: app.state.live_updates.num_subscriptions)
    if settings.oidc.issuer is not None:
        app.state.oidc = OidcProvider(settings.oidc, settings.public_url.rstrip("/") + single_sign_on.CALLBACK)
    life = asyncio.create_task(keep_recording_life(app.state.sessions), name="sign-of-life")
    try:
        yield
    finally:
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life
        await app.state.live_updates.stop()
        for outside in (app.state.oidc, app.state.ray_proxy):
            if outside is not None:
                await outside.close()
        if own_engine is not None:
            await own_engine.dispose()
