"""Whole steps of rollouts over HTTP, as they lie in the experiment's folder."""

from pathlib import Path

import httpx
import pytest

from service.settings import ApiSettings
from service.storage.database import Sessions
from tests.factories import make_attempt

pytestmark = pytest.mark.anyio
CONTENT = bytes(range(256)) * 10_000


@pytest.fixture
def settings(settings: ApiSettings, tmp_path: Path) -> ApiSettings:
    """Outputs in a folder of the test."""
    return settings.model_copy(update={"output_root": str(tmp_path / "outputs")})


@pytest.fixture
async def experiment_id(sessions: Sessions) -> str:
    """An experiment that has begun."""
    async with sessions.begin() as session:
        return (await make_attempt(session)).experiment_id


@pytest.fixture
def folder(settings: ApiSettings, experiment_id: str) -> Path:
    """Two stored steps, one that is being written, and a stranger's file."""
    folder = Path(settings.output_dir(experiment_id)) / "rollouts" / "rl"
    folder.mkdir(parents=True)
    (folder / "step-00000010.parquet").write_bytes(CONTENT)
    (folder / "step-00000002.parquet").write_bytes(b"PAR1")
    (folder / ".writing-step-00000011.parquet").write_bytes(b"PA")
    (folder / "notes.txt").write_text("mine")
    return folder


async def test_stored_steps_are_listed_in_order(client: httpx.AsyncClient, experiment_id: str, folder: Path) -> None:
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/rollouts/stored")
    assert answer.json() == {"items": [{"step": 2, "num_bytes": 4}, {"step": 10, "num_bytes": len(CONTENT)}]}


async def test_an_experiment_that_stores_nothing_has_an_empty_list(
    client: httpx.AsyncClient, experiment_id: str
) -> None:
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/rollouts/stored")
    assert (answer.status_code, answer.json()) == (200, {"items": []})


async def test_a_step_is_downloaded_as_it_was_written(
    client: httpx.AsyncClient, experiment_id: str, folder: Path
) -> None:
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/rollouts/stored/10")
    assert answer.content == CONTENT
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    assert f'filename="{experiment_id}-step-00000010.parquet"' in answer.headers["content-disposition"]


@pytest.mark.parametrize(("path", "status"), [("stored/3", 404), ("stored/0", 422), ("stored/..%2F..%2Fx", 404)])
async def test_other_steps_are_refused(
    client: httpx.AsyncClient, experiment_id: str, folder: Path, path: str, status: int
) -> None:
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/rollouts/{path}")
    assert answer.status_code == status


async def test_an_unknown_experiment_has_no_rollouts(client: httpx.AsyncClient, folder: Path) -> None:
    for path in ("stored", "stored/2"):
        assert (await client.get(f"/api/v1/experiments/exp-none/rollouts/{path}")).status_code in (404, 422)


async def test_strangers_see_nothing(anonymous: httpx.AsyncClient, experiment_id: str, folder: Path) -> None:
    assert (await anonymous.get(f"/api/v1/experiments/{experiment_id}/rollouts/stored")).status_code == 401


async def test_storage_that_cannot_be_read_is_said_so(
    client: httpx.AsyncClient, experiment_id: str, folder: Path
) -> None:
    (folder / "step-00000003.parquet").mkdir()
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/rollouts/stored/3")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
