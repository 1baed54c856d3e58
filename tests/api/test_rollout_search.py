"""Stored completions asked for over HTTP."""

import io
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from service.settings import ApiSettings
from service.storage.database import Sessions
from tests.factories import make_attempt
from tests.rollout_files import RL, write_steps

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(settings: ApiSettings, tmp_path: Path) -> ApiSettings:
    """Outputs in a folder of the test."""
    return settings.model_copy(update={"output_root": str(tmp_path / "outputs")})


@pytest.fixture
async def url(sessions: Sessions, settings: ApiSettings) -> str:
    """Path of the search in an experiment of nine steps."""
    async with sessions.begin() as session:
        experiment_id = (await make_attempt(session, rl=RL)).experiment_id
    write_steps(settings.output_dir(experiment_id), range(1, 10))
    return f"/api/v1/experiments/{experiment_id}/rollouts/search"


async def items(client: httpx.AsyncClient, url: str, **query: Any) -> list[dict[str, Any]]:
    """All that is found, page after page."""
    found: list[dict[str, Any]] = []
    while True:
        response = await client.get(url, params=query)
        assert response.status_code == 200, response.text
        page = response.json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


async def test_a_completion_has_what_people_read(client: httpx.AsyncClient, url: str) -> None:
    page = (await client.get(url, params={"limit": 2})).json()
    assert page["items"][1] == {
        "step": 9,
        "prompt_uid": 0,
        "sample_index": 1,
        "policy_version": 8,
        "age": 1,
        "prompt": "question 0",
        "answer": "0",
        "completion": "Step 9 answers yes (100%)",
        "finish_reason": "stop",
        "num_tokens": 2,
        "reward": 0.5,
        "reward_parts": {"value": 1.0, "form": 0.0},
        "advantage": -0.25,
        "is_trained": True,
        "sample_weight": 1.0,
    }


@pytest.mark.parametrize("order", ["step", "-reward"])
async def test_pages_give_everything_once(client: httpx.AsyncClient, url: str, order: str) -> None:
    found = await items(client, url, order=order, limit=7, to_step=3)
    assert len({(one["step"], one["prompt_uid"], one["sample_index"]) for one in found}) == len(found) == 24


async def test_filters_hold_together(client: httpx.AsyncClient, url: str) -> None:
    found = await items(client, url, store="whole", prompt_uid=7, min_reward=1, contains="yes")
    assert [(one["step"], one["sample_index"]) for one in found] == [(9, 3), (6, 3), (3, 3)]


async def test_columns_are_those_asked_for(client: httpx.AsyncClient, url: str) -> None:
    query = {"columns": ["completion_token_ids", "rollout_logprobs", "version_spans"], "limit": 1, "min_tokens": 3}
    assert (await client.get(url, params=query)).json()["items"] == [
        {
            "completion_token_ids": [0, 1, 2],
            "rollout_logprobs": [-0.5, -0.5, -0.5],
            "version_spans": [{"version": 9, "start": 0, "end": 3}],
        }
    ]


async def exported(client: httpx.AsyncClient, url: str, **query: Any) -> Any:
    response = await client.get(url, params={"format": "parquet", **query})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/vnd.apache.parquet"
    return pq.read_table(io.BytesIO(response.content))


async def test_an_export_holds_the_whole_answer_with_all_columns(client: httpx.AsyncClient, url: str) -> None:
    table = await exported(client, url, order="step", min_reward=1.0)
    assert table["step"].to_pylist() == [step for step in range(1, 10) for _ in range(4)]
    assert table["rewards/form"].to_pylist() == [1.0, None] * 18
    assert table["completion_token_ids"][1].as_py() == [0, 1, 2, 3]
    assert {"prompt_token_ids", "rollout_logprobs", "version_spans", "sample_weight"} <= set(table.column_names)
    assert b'"min_reward": 1.0' in table.schema.metadata[b"sedray"]


async def test_an_export_of_nothing_is_an_empty_table(client: httpx.AsyncClient, url: str) -> None:
    table = await exported(client, url, prompt_uid=99)
    assert (table.num_rows, "completion" in table.column_names) == (0, True)


async def test_an_export_may_have_a_limit(client: httpx.AsyncClient, url: str) -> None:
    newest = await exported(client, url, columns=["step"], limit=10)
    assert newest["step"].to_pylist() == [9] * 8 + [8] * 2
    best = await exported(client, url, columns=["step"], limit=3, order="-reward")
    assert best["step"].to_pylist() == [1, 1, 2]


BAD: list[tuple[str, str, str]] = [
    ("min_rewards=1", "min_rewards", "unknown parameter 'min_rewards'"),
    ("min_reward=much", "min_reward", "valid number"),
    ("min_reward=2&max_reward=1", "query", "min_reward 2.0 lies above max_reward 1.0"),
    ("limit=501", "query", "a page has at most 500"),
    ("limit=0", "limit", "greater than or equal to 1"),
    ("order=age", "order", "'num_tokens'"),
    ("columns=step&columns=colour", "columns", "'completion'"),
    ("contains=", "contains", "at least 1"),
    ("format=parquet&order=reward", "query", "needs a limit"),
    ("store=whole&columns=sample_weight", "query", "belongs to store 'sample'"),
    ("cursor=abc", "cursor", "not a cursor"),
    ("from_step=0", "from_step", "greater than or equal to 1"),
]


async def test_what_cannot_be_meant_is_refused_with_the_reason(client: httpx.AsyncClient, url: str) -> None:
    for query, field, said in BAD:
        response = await client.get(f"{url}?{query}")
        problem = response.json()
        assert (response.status_code, problem["code"]) == (422, "invalid_request"), query
        assert problem["errors"][0]["field"] == field
        assert said in problem["errors"][0]["problem"]
        assert "Value error" not in problem["detail"]


async def test_a_misspelt_filter_is_told_the_right_name(client: httpx.AsyncClient, url: str) -> None:
    problem = (await client.get(url, params={"min_rewards": 1})).json()
    assert problem["errors"][0]["hint"] == "did you mean 'min_reward'?"


async def test_a_cursor_belongs_to_its_order(client: httpx.AsyncClient, url: str) -> None:
    cursor = (await client.get(url, params={"limit": 1, "order": "reward"})).json()["next_cursor"]
    response = await client.get(url, params={"cursor": cursor, "order": "step"})
    assert response.json()["errors"][0]["field"] == "cursor"


async def test_an_experiment_without_rollouts_has_an_empty_page(
    client: httpx.AsyncClient, sessions: Sessions, settings: ApiSettings
) -> None:
    async with sessions.begin() as session:
        experiment_id = (await make_attempt(session)).experiment_id
    response = await client.get(f"/api/v1/experiments/{experiment_id}/rollouts/search")
    assert response.json() == {"items": [], "next_cursor": None}


async def test_a_damaged_file_is_named(client: httpx.AsyncClient, url: str, settings: ApiSettings) -> None:
    folder = Path(settings.output_dir(url.split("/")[4])) / "rollouts" / "rl-sample"
    (folder / "step-00000004.parquet").write_bytes(b"PAR1 and no more")
    assert len((await client.get(url, params={"limit": 40})).json()["items"]) == 40, "the steps behind it can be read"
    for query in ({"from_step": 4, "to_step": 4}, {"from_step": 4, "to_step": 4, "format": "parquet"}):
        response = await client.get(url, params=query)
        assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
        assert "file of step 4 is damaged" in response.json()["detail"]


async def test_strangers_and_unknown_experiments_get_nothing(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, url: str
) -> None:
    assert (await client.get("/api/v1/experiments/exp-none/rollouts/search")).status_code in (404, 422)
    del anonymous.headers["Authorization"]
    assert (await anonymous.get(url)).status_code == 401
