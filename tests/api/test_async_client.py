"""The asynchronous client: the calls of the blocking one, against the app in process."""

import inspect
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from api.client import AsyncSedrayClient, MissingLibrary, NotFound, RetryPolicy, SedrayClient, ServiceUnreachable
from service import attempts, log_store, metric_store
from service.contract.messages import LogLine, MetricColumns
from service.contract.status import EndReason
from service.settings import ApiSettings
from service.storage.database import Sessions
from tests.factories import NOW, make_attempt, make_stage_result, spec_body

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(settings: ApiSettings, tmp_path: Path) -> ApiSettings:
    """Outputs in a folder of the test."""
    return settings.model_copy(update={"output_root": str(tmp_path / "outputs")})


@pytest.fixture
async def ada(app: FastAPI, client: httpx.AsyncClient, token: str) -> AsyncIterator[AsyncSedrayClient]:
    """The client of the user `ada`; the fixture `client` keeps the app running."""
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
    async with AsyncSedrayClient("http://sedray.test", token, http=http) as ada:
        yield ada


async def make_ended(sessions: Sessions) -> str:
    """The id of an experiment that has left something of everything."""
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        columns = [MetricColumns(name="sft/loss", steps=[1, 2, 3], ts=[NOW] * 3, values=[3.0, 2.0, 1.0])]
        await metric_store.append_columns(session, attempt, columns)
        await log_store.append_lines(session, attempt, [LogLine(ts=NOW, text=text) for text in ("hello", "bye")])
        await attempts.record_stage_result(session, attempt, make_stage_result("sft"))
        await attempts.end_attempt(session, attempt, EndReason.COMPLETED, "", {})
        return attempt.experiment_id


async def test_it_submits_lists_follows_and_waits(ada: AsyncSedrayClient, sessions: Sessions) -> None:
    submitted = await ada.submit(spec_body(name="mine"), idempotency_key="k")
    assert (await ada.submit(spec_body(name="mine"), idempotency_key="k")).id == submitted.id
    assert [one.id async for one in ada.all_experiments(name="mine")] == [submitted.id]
    assert (await ada.cancel(submitted.id)).status.is_terminal
    assert [one.kind async for one in ada.follow_events(submitted.id)][-1] == "status"
    assert (await ada.wait(submitted.id, timeout_s=5)).id == submitted.id
    with pytest.raises(NotFound):
        await ada.experiment("exp-none")
    assert "sft" in (await ada.experiment_schema())["properties"]


async def test_it_reads_the_course_of_an_experiment_and_orders_about_many(
    ada: AsyncSedrayClient, sessions: Sessions
) -> None:
    ended = await make_ended(sessions)
    assert [one.number for one in (await ada.timeline(ended)).attempts] == [1]
    assert (await ada.specification(ended)).against is None
    queued = (await ada.submit(spec_body(name="mine", seed=7))).id
    compared = await ada.specification(queued, against=ended)
    assert "seed" in {change.path for change in compared.changes}
    assert (await ada.lineage(ended)).experiment_id == ended
    assert "sft" in {phase.phase for phase in (await ada.spend(ended)).phases}
    assert (await ada.metric_axes(ended, max_knots=2)).axes == [], "it told no tokens"

    reply = await ada.order_many("cancel", [queued, "exp-none"])
    assert [(item.id, item.done) for item in reply.items] == [(queued, True), ("exp-none", False)]
    page = await ada.experiments(status=["cancelled", "failed"], text="mine", order="ended")
    assert [one.id for one in page.items] == [queued]
    assert (await ada.experiment_counts(name="mine")).by_status == {"cancelled": 1}
    assert [one.id async for one in ada.all_experiments(status="succeeded", order="oldest")] == [ended]
    assert (await ada.cluster()).nodes == [] and (await ada.standings()).items is not None


async def test_it_downloads_a_model_as_a_tar_or_one_file_of_it(
    ada: AsyncSedrayClient, sessions: Sessions, settings: ApiSettings, tmp_path: Path
) -> None:
    ended = await make_ended(sessions)
    folder = Path(settings.output_dir(ended)) / "models" / "sft"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")

    listed = (await ada.checkpoints(ended)).items
    assert [(one.id, [file.path for file in one.files]) for one in listed] == [("sft.model", ["config.json"])]
    await ada.download_checkpoint(ended, "sft.model", tmp_path / "model.tar")
    with tarfile.open(tmp_path / "model.tar") as archive:
        assert any(name.endswith("config.json") for name in archive.getnames())
    await ada.download_checkpoint(ended, "sft.model", tmp_path / "config.json", file="config.json")
    assert (tmp_path / "config.json").read_text() == "{}"


@pytest.mark.parametrize("library", ["pandas", "polars"])
async def test_frames_have_every_point_and_every_result(
    ada: AsyncSedrayClient, sessions: Sessions, library: str
) -> None:
    experiment_id = await make_ended(sessions)

    long = await ada.frames.metrics(experiment_id, ["sft/loss"], library=library)  # type: ignore[arg-type]
    wide = await ada.frames.metrics([experiment_id], layout="wide", library=library)  # type: ignore[arg-type]
    results = await ada.frames.results(experiment_id, library=library)  # type: ignore[arg-type]

    assert type(long).__module__.split(".")[0] == library
    assert list(long.columns) == ["experiment_id", "name", "step", "ts", "value"]
    assert list(long["value"]) == [3.0, 2.0, 1.0]
    assert list(wide.columns) == ["experiment_id", "step", "sft/loss"]
    assert list(results["stage"]) == ["sft"] and list(results["sft/loss"]) == [0.5]


async def test_a_library_that_is_missing_is_said_before_anything_is_asked(
    ada: AsyncSedrayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingLibrary, match=r"pip install 'sedray\[frames\]'"):
        await ada.frames.results("exp-none", library="polars")


async def test_logs_are_followed_and_downloaded(ada: AsyncSedrayClient, sessions: Sessions, tmp_path: Path) -> None:
    experiment_id = await make_ended(sessions)
    (folder := tmp_path / "logs").mkdir()

    assert [line.text async for line in ada.follow_logs(experiment_id)] == ["hello", "bye"]
    await ada.download_log(experiment_id, folder / "whole.log")
    with pytest.raises(NotFound):
        await ada.download_log("exp-none", folder / "none.log")

    assert [path.name for path in folder.iterdir()] == ["whole.log"]
    assert (folder / "whole.log").read_text().endswith("driver bye\n")


async def test_it_tries_again_as_the_blocking_one_does() -> None:
    tries = 0

    def refuse(_: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        raise httpx.ReadError("gone")

    http = httpx.AsyncClient(transport=httpx.MockTransport(refuse))
    async with AsyncSedrayClient("http://x", "t", http=http, retries=RetryPolicy(first_pause_s=0.0)) as client:
        with pytest.raises(ServiceUnreachable):
            await client.me()
    assert tries == 5


def test_both_clients_have_the_same_calls() -> None:
    names = [{name for name in dir(kind) if not name.startswith("_")} for kind in (SedrayClient, AsyncSedrayClient)]
    assert names[0] == names[1]
    one = AsyncSedrayClient("http://x", "t").submit
    assert list(inspect.signature(one).parameters) == ["spec", "idempotency_key"]
    assert "Request" not in str(inspect.signature(one))
    assert one.__doc__ is not None and one.__doc__.startswith("Queues")
