"""Every operation, asked for by everybody: what `access_table` says is what happens, and nothing is missing there."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy import func, select

from service.contract.preview import DataPreview, PreviewRequest
from service.settings import ApiSettings
from service.storage.audit_tables import AuditEntry
from service.storage.database import Sessions
from tests.api.access_table import CALLERS, OPERATIONS, OUTCOMES, Operation
from tests.api.access_world import World, make_world
from tests.api.conftest import SECRET, serving

pytestmark = pytest.mark.anyio
FILLED = dict.fromkeys(("name", "token_id", "webhook_id", "delivery_id"), "none")


class ShownNothing:
    """A previewer that reads no file."""

    async def preview(self, request: PreviewRequest) -> DataPreview:
        return DataPreview(data_sets=[])


@pytest.fixture
def settings(settings: ApiSettings, tmp_path: Path) -> ApiSettings:
    """Outputs in a folder of the test."""
    return settings.model_copy(update={"output_root": str(tmp_path / "outputs")})


@pytest.fixture
async def world(sessions: Sessions, tmp_path: Path) -> World:
    """Everybody, and something of everything."""
    return await make_world(sessions, SECRET, tmp_path / "outputs")


@pytest.fixture
async def http(app: FastAPI, world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token of its own."""
    app.state.previewer = ShownNothing()
    async with serving(app) as client:
        yield client


def operations_of(app: FastAPI) -> set[str]:
    """Method and path of everything that the app answers, in its OpenAPI document or not."""
    documented = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    routes = {
        f"{method} {route.path}" for route in app.routes if isinstance(route, APIRoute) for method in route.methods
    }
    return documented | routes | {"GET /openapi.json"}


async def ask(http: httpx.AsyncClient, world: World, name: str, caller: str) -> httpx.Response:
    operation = OPERATIONS[name]
    method, path = name.split(" ")
    places = await world.target(operation.target)
    headers = {} if caller == "none" else {"Authorization": f"Bearer {world.tokens[caller]}"}
    body = json.loads(json.dumps(operation.json).replace("{fresh}", world.fresh()))
    content = {"data": operation.form} if operation.form else {"json": body}
    query = {key: value.format(**places) for key, value in operation.query.items()}
    return await http.request(method, path.format(**places), params=query, headers=headers, timeout=30, **content)


def expected(operation: Operation, caller: str) -> int:
    return OUTCOMES[operation.rule].get(caller, operation.success)


def test_the_table_names_every_operation_and_no_other(app: FastAPI) -> None:
    assert operations_of(app) == set(OPERATIONS)


async def test_each_caller_gets_what_the_table_says(http: httpx.AsyncClient, world: World) -> None:
    wrong = []
    for name, operation in OPERATIONS.items():
        for caller in CALLERS:
            answer = await ask(http, world, name, caller)
            if answer.status_code != expected(operation, caller):
                wrong.append(f"{name} as {caller}: {answer.status_code}, not {expected(operation, caller)}")
            elif answer.status_code >= 400 and name.split(" ")[1].startswith("/api/"):
                assert answer.headers["Content-Type"] == "application/problem+json", name
    assert wrong == []


@pytest.mark.parametrize("odd", ["%00", "x" * 300, "é", "'; --", "..%2f..", "-1"])
async def test_no_odd_name_in_a_path_is_an_internal_error(http: httpx.AsyncClient, world: World, odd: str) -> None:
    headers = {"Authorization": f"Bearer {world.tokens['admin']}"}
    for name, operation in OPERATIONS.items():
        method, path = name.split(" ")
        for place in re.findall(r"{(\w+)}", path):
            body = json.loads(json.dumps(operation.json).replace("{fresh}", world.fresh()))
            odd_path = path.format(**{**FILLED, **world.places, place: odd})
            answer = await http.request(method, odd_path, json=body, headers=headers)
            assert answer.status_code in (401, 404, 422), f"{name} with {place}: {answer.text}"


async def test_what_may_not_be_seen_is_answered_as_what_does_not_exist(http: httpx.AsyncClient, world: World) -> None:
    headers = {"Authorization": f"Bearer {world.tokens['outsider']}"}
    there, nowhere = world.places["experiment_id"], "exp-none"
    for path in ("/api/v1/experiments/{}", "/api/v1/experiments/{}/logs", "/experiments/{}"):
        hidden = await http.get(path.format(there), headers=headers)
        absent = await http.get(path.format(nowhere), headers=headers)
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text.replace(there, nowhere) == absent.text


async def test_a_change_is_in_the_audit_log_and_a_refused_one_is_not(
    http: httpx.AsyncClient, world: World, sessions: Sessions
) -> None:
    for name, operation in OPERATIONS.items():
        if operation.rule in ("public", "attempt") or operation.rule.endswith("page"):
            continue
        for caller, audited in (("admin", operation.audited), ("viewer", False)):
            if caller == "viewer" and expected(operation, caller) < 400:
                continue
            before = await entries_by(sessions, caller)
            await ask(http, world, name, caller)
            assert (await entries_by(sessions, caller) > before) == audited, f"{name} as {caller}"


async def entries_by(sessions: Sessions, actor: str) -> int:
    """Entries of changes that somebody made over HTTP."""
    async with sessions() as session:
        mine = select(func.count()).where(AuditEntry.actor == actor, AuditEntry.request_id.is_not(None))
        return await session.scalar(mine) or 0


async def test_lists_hold_the_callers_projects_only(http: httpx.AsyncClient, world: World) -> None:
    def ids(answer: httpx.Response, *keys: str) -> list[Any]:
        return [item for key in keys for item in answer.json()[key]]

    for caller, sees in (("viewer", True), ("admin", True), ("outsider", False), ("bound_elsewhere", False)):
        headers = {"Authorization": f"Bearer {world.tokens[caller]}"}
        listed = ids(await http.get("/api/v1/experiments", headers=headers), "items")
        queue = ids(await http.get("/api/v1/queue", headers=headers), "running", "queued")
        names = {item["name"] for item in ids(await http.get("/api/v1/projects", headers=headers), "items")}
        page = (await http.get("/", headers=headers)).text
        assert (bool(listed), bool(queue), "team" in names) == (sees, sees, sees), caller
        assert (world.places["experiment_id"] in page) == sees
