"""The id of a request: the caller's own or a new one, in the answer, the log and the audit log."""

import logging

import httpx
import pytest

from tests.factories import spec_body

pytestmark = pytest.mark.anyio


async def test_a_harmless_id_is_kept_and_another_replaced(anonymous: httpx.AsyncClient) -> None:
    for given, kept in (("build-4711", True), ("x", False), ("a b c d e f g h", False), ("x" * 65, False)):
        answer = await anonymous.get("/livez", headers={"X-Request-Id": given})
        assert (answer.headers["X-Request-Id"] == given) == kept


async def test_the_access_log_and_the_audit_log_have_it(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="api.access"):
        made = await client.post("/api/v1/experiments", json=spec_body(), headers={"X-Request-Id": "build-4711"})
    assert made.status_code == 201
    assert [vars(record)["request_id"] for record in caplog.records if record.name == "api.access"] == ["build-4711"]
    (entry,) = (await client.get("/api/v1/projects/default/audit?action=experiment.submit")).json()["items"]
    assert (entry["request_id"], entry["target_id"]) == ("build-4711", made.json()["id"])
