"""A client that a stock generator makes from the OpenAPI document works against the service."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.factories import spec_body

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
CONFIG = Path(__file__).parents[2] / "examples" / "generated_client" / "config.yaml"


@pytest.fixture
def generated(client: httpx.AsyncClient, app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The generated package, to be imported; `client` keeps the app running."""
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.Response(200, json=app.openapi()).content)
    package = tmp_path / "sedray_api"
    words = ["generate", "--path", document, "--output-path", package, "--meta", "none", "--config", CONFIG]
    made = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *words, "--fail-on-warning"],
        capture_output=True,
        text=True,
        timeout=100,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    return package.name


async def test_a_generated_client_submits_reads_and_lists(generated: str, app: FastAPI, token: str) -> None:
    def module(name: str) -> Any:
        return importlib.import_module(f"{generated}.{name}")

    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sedray.test")
    http.headers["Authorization"] = f"Bearer {token}"
    caller = module("client").AuthenticatedClient(base_url="http://sedray.test", token=token)
    async with http:
        caller.set_async_httpx_client(http)
        spec = module("models").ExperimentSpec.from_dict(spec_body(name="generated"))
        made = await module("api.experiments.submit_experiment").asyncio(
            client=caller, body=spec, idempotency_key="once"
        )
        read = await module("api.experiments.show_experiment").asyncio(made.id, client=caller)
        page = await module("api.experiments.list_experiments").asyncio(client=caller, name="generated")
        refused = await module("api.experiments.show_experiment").asyncio("exp-none", client=caller)

    assert (read.id, read.spec.sft.objective.type_) == (made.id, "ce")
    assert [one.id for one in page.items] == [made.id]
    assert (refused.status, refused.code) == (404, "not_found")
