"""Death certificates over HTTP, on the page and on the command line."""

import httpx
import pytest

from api.cli.certificate_text import certificate_summary, certificate_view
from service import attempts, certificates
from service.contract.status import EndReason
from service.storage.database import Sessions
from service.storage.tables import Attempt
from tests.api.test_cli import shown
from tests.factories import make_attempt

pytestmark = pytest.mark.anyio


async def failed(sessions: Sessions) -> Attempt:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        evidence = {"traceback": "Traceback <b>of mine</b>", "driver_exit_code": 1}
        await attempts.end_attempt(session, attempt, EndReason.STAGE_FAILED, "division by zero", evidence)
        return attempt


async def test_a_certificate_is_read(client: httpx.AsyncClient, sessions: Sessions) -> None:
    attempt = await failed(sessions)
    answer = await client.get(f"/api/v1/experiments/{attempt.experiment_id}/attempts/1/certificate")
    body = answer.json()
    assert (body["reason"], body["failure"], body["exit_code"]) == ("stage_failed", "user_code", 1)
    assert body["what_followed"] == "division by zero"


@pytest.mark.parametrize(("number", "status"), [(2, 404), (0, 422)])
async def test_a_number_that_is_none_is_a_problem(
    client: httpx.AsyncClient, sessions: Sessions, number: int, status: int
) -> None:
    attempt = await failed(sessions)
    answer = await client.get(f"/api/v1/experiments/{attempt.experiment_id}/attempts/{number}/certificate")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_the_page_shows_it_escaped(client: httpx.AsyncClient, sessions: Sessions) -> None:
    attempt = await failed(sessions)
    page = (await client.get(f"/experiments/{attempt.experiment_id}")).text
    assert "Traceback &lt;b&gt;of mine" in page and "Read the traceback" in page


async def test_the_command_line_shows_the_short_and_the_whole_form(sessions: Sessions) -> None:
    attempt = await failed(sessions)
    async with sessions() as session:
        certificate = await certificates.read(session, attempt.experiment_id, 1)
    short, whole = shown(certificate_summary(certificate)), shown(certificate_view(certificate, num_lines=5))
    assert "stage_failed (user_code): division by zero" in short and "Traceback" not in short.replace(
        "the traceback", ""
    )
    assert "Traceback <b>of mine</b>" in whole
