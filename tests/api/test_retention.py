"""Retention over HTTP."""

import httpx
import pytest

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects/{}/retention"


async def test_a_policy_is_set_shown_and_taken_away(client: httpx.AsyncClient) -> None:
    url = URL.format("default")
    answer = (await client.put(url, json={"logs": 30})).json()
    assert (answer["project"], answer["is_own"], answer["days"]["logs"], answer["due"]) == ("default", True, 30, [])
    assert (await client.get(url)).json() == answer
    assert not (await client.delete(url)).json()["is_own"]


@pytest.mark.parametrize(("project", "body", "status"), [("nobody", {}, 404), ("default", {"logs": -1}, 422)])
async def test_a_policy_that_cannot_be_is_refused(
    client: httpx.AsyncClient, project: str, body: dict[str, int], status: int
) -> None:
    answer = await client.put(URL.format(project), json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
