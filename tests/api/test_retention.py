"""Retention over HTTP."""

import httpx
import pytest

pytestmark = pytest.mark.anyio
URL = "/api/v1/retention"


async def test_a_policy_is_set_shown_and_taken_away(client: httpx.AsyncClient) -> None:
    answer = (await client.put(f"{URL}/default", json={"logs": 30})).json()
    [project] = answer["projects"]
    assert (project["project"], project["is_own"], project["days"]["logs"]) == ("default", True, 30)
    assert (await client.get(URL)).json()["projects"] == [project]
    assert not (await client.delete(f"{URL}/default")).json()["projects"][0]["is_own"]


@pytest.mark.parametrize(("path", "body", "status"), [("nobody", {}, 404), ("default", {"logs": -1}, 422)])
async def test_a_policy_that_cannot_be_is_refused(
    client: httpx.AsyncClient, path: str, body: dict[str, int], status: int
) -> None:
    answer = await client.put(f"{URL}/{path}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
