"""The app in process, on a real database, without a network."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import create_app
from service import auth
from service.contract.plan import ExperimentPlan
from service.contract.spec import ExperimentSpec
from service.errors import CannotRun
from service.planning import Capacity
from service.settings import ApiSettings
from service.storage.database import Sessions
from tests.factories import PLAN, make_user

SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> ApiSettings:
    """Settings of an API process on the test's database."""
    key_file = tmp_path / "secret_key"
    key_file.write_bytes(SECRET)
    return ApiSettings(
        database_url=SecretStr(database_url),
        secret_key_file=key_file,
        output_root="/outputs/",
        public_url="http://sedray.test",
    )


async def plan_anything(spec: ExperimentSpec, capacity: Capacity | None) -> ExperimentPlan:
    """A planner that looks at no file: it refuses what does not fit into the cluster and accepts all else."""
    if capacity is not None and spec.resources.num_cpus > capacity.num_cpus:
        problem = f"needs {spec.resources.num_cpus:g} CPUs, the cluster has {capacity.num_cpus:g}"
        raise CannotRun(problem, errors=[{"field": "resources", "problem": problem}])
    return PLAN


@asynccontextmanager
async def serving(app: FastAPI, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running app."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://sedray.test", headers=headers) as client,
    ):
        yield client


@pytest.fixture
async def app(settings: ApiSettings, engine: AsyncEngine) -> FastAPI:
    """The app; not running yet."""
    return create_app(settings, engine=engine, plan=plan_anything)


@pytest.fixture
async def token(sessions: Sessions) -> str:
    """An API token of the user `ada`."""
    async with sessions.begin() as session:
        return (await auth.issue_token(session, await make_user(session), "tests"))[1]


@pytest.fixture
async def anonymous(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any token."""
    async with serving(app) as client:
        yield client


@pytest.fixture
async def client(anonymous: httpx.AsyncClient, token: str) -> httpx.AsyncClient:
    """A client that calls as `ada`."""
    anonymous.headers["Authorization"] = f"Bearer {token}"
    return anonymous
