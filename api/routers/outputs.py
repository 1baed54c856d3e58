"""What a run leaves behind: checkpoints and exported models to download, and what it took."""

from math import isfinite
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession

from api.access import ReadableExperiment
from api.deps import SessionDep, SettingsDep
from api.output_schemas import OutputFileOut, OutputOut, OutputPage, Spend
from api.problems import problem_responses
from api.shapes import read_experiment
from api.spend import PARTS_OF_RL, spend_of
from service import metric_store, outputs
from service.storage.clock import database_now

router = APIRouter(prefix="/experiments/{experiment_id}", tags=["outputs"])
OutputId = Annotated[str, Path(max_length=100, description="`sft.step-00000228`, `rl.model`.")]
_PROBLEMS = problem_responses(401, 404, 503)
_BYTES = "application/octet-stream"
_TAR = "application/x-tar"
_MOST_STEPS = 10_000


@router.get("/checkpoints", summary="List checkpoints and exported models", responses=_PROBLEMS)
async def list_checkpoints(experiment_id: ReadableExperiment, settings: SettingsDep) -> OutputPage:
    """As they lie in the experiment's folder now; retention may have removed checkpoints.

    `storage_unavailable` where that folder cannot be reached from the API's machine.
    """
    location = settings.output_dir(experiment_id)
    items = [_to_output(one) for one in await outputs.list_outputs(location)]
    return OutputPage(location=location, items=items)


@router.get(
    "/checkpoints/{output_id}/archive",
    summary="Download a checkpoint or a model as a tar",
    response_class=StreamingResponse,
    responses=_PROBLEMS | {200: {"content": {_TAR: {}}}},
)
async def download_checkpoint(
    experiment_id: ReadableExperiment, settings: SettingsDep, output_id: OutputId
) -> StreamingResponse:
    """Sent while it is read. A model is a Hugging Face folder; a checkpoint is what an attempt goes on from."""
    found = await outputs.open_archive(settings.output_dir(experiment_id), output_id)
    return _stream(found, _TAR, f"{experiment_id}-{found.name}")


@router.get(
    "/checkpoints/{output_id}/file",
    summary="Download one file of a checkpoint or a model",
    response_class=StreamingResponse,
    responses=_PROBLEMS | {200: {"content": {_BYTES: {}}}},
)
async def download_checkpoint_file(
    experiment_id: ReadableExperiment,
    settings: SettingsDep,
    output_id: OutputId,
    path: Annotated[str, Query(max_length=500, description="As the list names it.")],
) -> StreamingResponse:
    """Only files that the list names."""
    found = await outputs.open_file(settings.output_dir(experiment_id), output_id, path)
    return _stream(found, _BYTES, found.name)


@router.get("/spend", summary="Read what an experiment took", responses=problem_responses(401, 404))
async def show_spend(experiment_id: ReadableExperiment, session: SessionDep) -> Spend:
    """Device-seconds by phase, and of all attempts."""
    return await read_spend(session, experiment_id)


async def read_spend(session: AsyncSession, experiment_id: str) -> Spend:
    """Raises NotFound."""
    series = await metric_store.read_series(session, experiment_id, tuple(PARTS_OF_RL.values()), _MOST_STEPS)
    sums = {one.name: _sum(one) for one in series}
    return spend_of(await read_experiment(session, experiment_id), sums, await database_now(session))


def _sum(series: metric_store.Series) -> float:
    """Over all steps; what is not finite is left out."""
    if series.points is not None:
        return sum(value for value in series.points.values if isfinite(value))
    return sum((bucket.mean or 0.0) * bucket.num_finite for bucket in series.envelope)


def _stream(found: outputs.Download, media_type: str, name: str) -> StreamingResponse:
    headers = {
        "Content-Length": str(found.num_bytes),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}",
        # A file from a run is never to be taken for a page of ours.
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(found.chunks(), media_type=media_type, headers=headers)


def _to_output(output: outputs.Output) -> OutputOut:
    files = [OutputFileOut(path=file.path, num_bytes=file.num_bytes) for file in output.files]
    return OutputOut.model_validate(
        {
            "id": output.id,
            "kind": output.kind,
            "stage": output.stage,
            "step": output.step,
            "is_whole": output.is_whole,
            "modified_at": output.modified_at,
            "num_bytes": output.num_bytes,
            "files": files,
        }
    )
