"""The models that stages leave behind, file by file."""

from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from api.access import ReadableExperiment
from api.deps import SessionsDep, SettingsDep
from api.export_schemas import ModelFileOut, ModelFilesPage
from api.problems import problem_responses
from service import exported_models

router = APIRouter(prefix="/experiments/{experiment_id}/models", tags=["experiments"])

TrainedStage = Annotated[Literal["sft", "rl"], Path(description="The stage that trained it.")]
_BYTES = "application/octet-stream"


@router.get("/{stage}", summary="List the files of a stage's model", responses=problem_responses(401, 404, 422, 503))
async def list_model_files(
    experiment_id: ReadableExperiment, stage: TrainedStage, sessions: SessionsDep, settings: SettingsDep
) -> ModelFilesPage:
    """Config, safetensors and tokenizer; with LoRA also the adapters alone."""
    async with sessions() as session:
        maker = await exported_models.maker_of(session, experiment_id, stage)
    files = await exported_models.list_files(settings.output_dir(maker), stage)
    items = [ModelFileOut(name=one.name, num_bytes=one.num_bytes) for one in files]
    return ModelFilesPage(stage=stage, experiment_id=maker, items=items)


@router.get(
    "/{stage}/file",
    summary="Download a file of a stage's model",
    response_class=StreamingResponse,
    responses=problem_responses(401, 404, 422, 503) | {200: {"content": {_BYTES: {}}}},
)
async def download_model_file(
    experiment_id: ReadableExperiment,
    stage: TrainedStage,
    sessions: SessionsDep,
    settings: SettingsDep,
    name: Annotated[str, Query(min_length=1, max_length=500, description="As the list has it.")],
) -> StreamingResponse:
    """As the run wrote it."""
    async with sessions() as session:
        maker = await exported_models.maker_of(session, experiment_id, stage)
    found = await exported_models.open_file(settings.output_dir(maker), stage, name)
    headers = {
        "Content-Length": str(found.num_bytes),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name.rsplit('/', 1)[-1])}",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(found.chunks(), media_type=_BYTES, headers=headers)
