"""A stage's model over HTTP: its own folder and nothing else."""

from pathlib import Path

import httpx
import pytest

from service import attempts
from service.settings import ApiSettings
from service.storage.database import Sessions
from service.tenancy import projects
from tests.factories import make_attempt, make_experiment, make_stage_result, make_user

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(settings: ApiSettings, tmp_path: Path) -> ApiSettings:
    """Outputs in a folder of the test."""
    return settings.model_copy(update={"output_root": str(tmp_path / "outputs")})


@pytest.fixture
async def experiment_id(sessions: Sessions) -> str:
    """An experiment whose SFT has finished, and which says its model is elsewhere."""
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.record_stage_result(session, attempt, make_stage_result(checkpoint="/etc"))
        return attempt.experiment_id


@pytest.fixture
def folder(settings: ApiSettings, experiment_id: str, tmp_path: Path) -> Path:
    """A model, with a link to what nobody may read."""
    folder = Path(settings.output_dir(experiment_id)) / "models" / "sft"
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "adapter" / "weights").write_bytes(b"12345")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    return folder


async def test_the_files_are_those_of_the_models_own_folder(
    client: httpx.AsyncClient, experiment_id: str, folder: Path
) -> None:
    page = (await client.get(f"/api/v1/experiments/{experiment_id}/models/sft")).json()
    assert page["items"] == [{"name": "adapter/weights", "num_bytes": 5}, {"name": "config.json", "num_bytes": 2}]
    assert page["experiment_id"] == experiment_id


async def test_a_file_comes_as_it_lies_there(client: httpx.AsyncClient, experiment_id: str, folder: Path) -> None:
    answer = await client.get(
        f"/api/v1/experiments/{experiment_id}/models/sft/file", params={"name": "adapter/weights"}
    )
    assert (answer.content, answer.headers["content-length"]) == (b"12345", "5")


@pytest.mark.parametrize("name", ["link", "../../../secret", "/etc/passwd", "adapter", "missing", "adapter/../link"])
async def test_nothing_outside_of_the_folder_is_opened(
    client: httpx.AsyncClient, experiment_id: str, folder: Path, name: str
) -> None:
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/models/sft/file", params={"name": name})
    assert answer.status_code == 404 and "secret" not in answer.text.replace(name, "")


async def reusing(sessions: Sessions, maker: str) -> str:
    """An experiment that says it has its SFT from another one."""
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        lineage = {"reused_from": {"experiment_id": maker}}
        await attempts.record_stage_result(session, attempt, make_stage_result(detail=lineage))
        return attempt.experiment_id


async def test_a_reused_stage_shows_its_makers_model_but_no_other_projects(
    client: httpx.AsyncClient, sessions: Sessions, folder: Path, experiment_id: str
) -> None:
    beside = await reusing(sessions, experiment_id)
    assert (await client.get(f"/api/v1/experiments/{beside}/models/sft")).json()["experiment_id"] == experiment_id
    async with sessions.begin() as session:
        await projects.create(session, None, "elsewhere")
        other = await make_user(session, "grace", project="elsewhere")
        elsewhere = (await make_experiment(session, user=other, project="elsewhere")).id
    for maker in (elsewhere, "../secret"):
        lying = await reusing(sessions, maker)
        answer = await client.get(f"/api/v1/experiments/{lying}/models/sft")
        assert answer.status_code == 404 and "not of this project" in answer.json()["detail"]


async def test_a_stage_that_has_not_finished_has_no_model(client: httpx.AsyncClient, experiment_id: str) -> None:
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/models/rl")
    assert answer.status_code == 404 and "no finished stage rl" in answer.json()["detail"]
