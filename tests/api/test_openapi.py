"""Requests made up from the OpenAPI document, fitting and unfitting, on a real API: what it answers is what it says.

A few for each operation; `SEDRAY_FUZZ_EXAMPLES=200 pytest tests/api/test_openapi.py` for more.
"""

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi_checks

from service.storage.database import Sessions
from tests.api.access_world import World, make_world
from tests.api.conftest import SECRET
from tests.service.scheduler.test_real_ray import free_ports

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_EXAMPLES = int(os.environ.get("SEDRAY_FUZZ_EXAMPLES", "5"))
CHECKS = [
    not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.response_headers_conformance,
]
ENDLESS = "/stream"
"""A live stream goes on until its experiment ends."""


@dataclass(frozen=True)
class Served:
    """A running API with something of everything in it."""

    url: str
    world: World


@pytest.fixture
async def served(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Served]:
    world = await make_world(sessions, SECRET, tmp_path / "outputs")
    (tmp_path / "secret_key").write_bytes(SECRET)
    [port] = free_ports(1)
    environment = os.environ | {
        "SEDRAY_DATABASE_URL": database_url,
        "SEDRAY_SECRET_KEY_FILE": str(tmp_path / "secret_key"),
        "SEDRAY_OUTPUT_ROOT": str(tmp_path / "outputs"),
        "SEDRAY_PORT": str(port),
        "SEDRAY_PREVIEW_TIMEOUT_S": "20",
    }
    with (tmp_path / "api.log").open("wb") as log:
        api = subprocess.Popen([sys.executable, "-m", "api.server"], env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/readyz")
        yield Served(url=f"http://127.0.0.1:{port}", world=world)
    finally:
        api.terminate()
        api.wait(30)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(url)


async def test_every_operation_answers_as_the_document_says(served: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 60
    wrong: list[str] = []
    for operation in operations:
        if not operation.path.endswith(ENDLESS):
            wrong += failures(served, operation)
    assert wrong == [], "\n\n".join(wrong)
    assert httpx.get(f"{served.url}/readyz").json()["database"] == "ok"


def failures(served: Served, operation: Any) -> list[str]:
    """What one operation answered that its document does not say; the first of each kind of request."""
    found = []
    for mode in GenerationMode:
        try:
            try_out(served, operation, mode)
        except Unsatisfiable:
            continue  # What takes nothing at all has no unfitting request.
        except (AssertionError, FailureGroup) as error:
            found.append(f"{operation.method.upper()} {operation.path} ({mode.value}): {error}")
    return found


def try_out(served: Served, operation: Any, mode: GenerationMode) -> None:
    caller = "attempt" if operation.path.startswith("/api/v1/attempts/") else "admin"
    headers = {"Authorization": f"Bearer {served.world.tokens[caller]}"}

    @given(case=operation.as_strategy(generation_mode=mode), existing=st.booleans())
    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any, existing: bool) -> None:
        if existing:
            case.path_parameters |= {
                name: place for name, place in served.world.places.items() if name in case.path_parameters
            }
        response = case.call(headers=headers, timeout=60)
        case.validate_response(response, checks=CHECKS)

    check()
