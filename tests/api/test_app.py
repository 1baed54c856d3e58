"""The application as a whole: health, OpenAPI, sign of life."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text

from api.app import create_app
from api.routers.experiments import SPEC_EXAMPLES
from service.contract.spec import ExperimentSpec
from service.settings import ApiSettings
from service.storage.database import Sessions
from service.storage.tables import ServiceProcess
from tests.api.conftest import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """In place of the one that tests share: a table is dropped here."""
    return own_database_url


async def test_livez_and_readyz(anonymous: httpx.AsyncClient) -> None:
    assert (await anonymous.get("/livez")).status_code == 200
    ready = await anonymous.get("/readyz")
    assert (ready.status_code, ready.json()) == (
        200,
        {"database": "ok", "migrations": "ok", "scheduler": "never seen"},
    )


async def test_readyz_refuses_a_schema_of_another_version(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    for statement in ("UPDATE alembic_version SET version_num = '0000'", "DROP TABLE alembic_version"):
        async with sessions.begin() as session:
            await session.execute(text(statement))
        ready = await anonymous.get("/readyz")
        assert (ready.status_code, "needs" in ready.json()["migrations"]) == (503, True)


async def test_the_api_writes_its_sign_of_life(anonymous: httpx.AsyncClient, sessions: Sessions) -> None:
    await anonymous.get("/livez")
    async with sessions.begin() as session:
        for _ in range(100):
            row = await session.scalar(select(ServiceProcess).where(ServiceProcess.role == "api"))
            if row is not None:
                break
            await session.execute(text("SELECT pg_sleep(0.02)"))
        assert row is not None and row.instance and row.detail["version"]


async def test_the_app_makes_and_disposes_of_its_own_engine(settings: ApiSettings) -> None:
    app = create_app(settings)
    async with serving(app) as client:
        assert (await client.get("/readyz")).status_code == 200


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, operation) for path, item in document["paths"].items() for operation in item.values()]


async def test_openapi_describes_every_operation_and_its_problems(app: FastAPI) -> None:
    document = app.openapi()
    for path, operation in operations(document):
        assert operation.get("summary") and operation.get("description"), path
        secured = bool(operation.get("security"))
        assert ("401" in operation["responses"]) == secured, path
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and path != "/readyz":
                assert answer["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem"), path


async def test_openapi_resolves_all_its_references_and_has_a_spec_example(app: FastAPI) -> None:
    document = app.openapi()
    text_form = str(document)
    schemas = document["components"]["schemas"]
    names = {part.split("'")[0] for part in text_form.split("#/components/schemas/")[1:]}
    assert names <= set(schemas) and "HTTPValidationError" not in schemas
    body = document["paths"]["/api/v1/experiments"]["post"]["requestBody"]["content"]["application/json"]
    assert body["examples"]["all stages"]["value"]["rl"]["num_generations"] == 8


def test_the_examples_in_openapi_are_valid() -> None:
    for example in SPEC_EXAMPLES.values():
        ExperimentSpec.model_validate(example["value"])
