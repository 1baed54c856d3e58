"""Completions that an experiment kept for people to read."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse

from api.access import ReadableExperiment
from api.deps import SessionDep, SessionsDep, SettingsDep
from api.problems import problem_responses
from api.rollout_search import PARQUET, answer_export, answer_page, search_of
from api.schemas import RolloutPage, RolloutSampleOut, RolloutSearchPage, StoredRolloutsOut, StoredRolloutsPage
from service import experiments, log_store, stored_rollouts
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from service.contract.stored_rollouts import RolloutQuery
from service.storage.tables import RolloutSampleRow

router = APIRouter(prefix="/experiments/{experiment_id}/rollouts", tags=["rollouts"])


@router.get(
    "",
    summary="Read completions, newest first",
    response_model=RolloutPage,
    responses=problem_responses(401, 404, 422),
)
async def read_rollouts(
    experiment_id: ReadableExperiment,
    session: SessionDep,
    stage: StageName | None = None,
    step: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=1, lt=2**63, description="`next_before` of the page before.")] = None,
) -> Response:
    """`next_before` is null on the last page."""
    rows = await log_store.rollouts_before(
        session, experiment_id, stage=stage, step=step, before=before, limit=limit + 1
    )
    items = [_to_sample(row) for row in rows[:limit]]
    page = RolloutPage(items=items, next_before=items[-1].id if len(rows) > limit else None)
    return Response(page.model_dump_json(), media_type="application/json")


@router.get(
    "/search",
    summary="Search the completions that RL has stored",
    response_model=RolloutSearchPage,
    responses=problem_responses(401, 404, 422, 503) | {200: {"content": {PARQUET: {}}}},
)
async def search_rollouts(
    experiment_id: ReadableExperiment,
    sessions: SessionsDep,
    settings: SettingsDep,
    query: Annotated[RolloutQuery, Query()],
) -> Response:
    """Reads the files in the experiment's folder: a sample of every step by `rl.rollout_sample_size`, or with
    `store=whole` the steps that `rl.rollout_store_steps` keeps. `format=parquet` gives all that is found as one file.

    A page ends early when its time or size is used up: go on with `next_cursor` until it is null.
    """
    async with sessions() as session:
        spec = ExperimentSpec.model_validate((await experiments.get(session, experiment_id)).spec)
    search = search_of(query, spec, settings.output_dir(experiment_id))
    if query.format == "parquet":
        return await answer_export(search, query, experiment_id)
    return await answer_page(search, query)


@router.get(
    "/stored",
    summary="List the RL steps whose rollouts are stored whole",
    responses=problem_responses(401, 404, 503),
)
async def list_stored_rollouts(experiment_id: ReadableExperiment, settings: SettingsDep) -> StoredRolloutsPage:
    """Stored where `rl.rollout_store_steps` says so."""
    steps = await stored_rollouts.list_steps(settings.output_dir(experiment_id))
    return StoredRolloutsPage(items=[StoredRolloutsOut(step=one.step, num_bytes=one.num_bytes) for one in steps])


@router.get(
    "/stored/{step}",
    summary="Download the rollouts of one RL step as Parquet",
    response_class=StreamingResponse,
    responses=problem_responses(401, 404, 422, 503) | {200: {"content": {PARQUET: {}}}},
)
async def download_stored_rollouts(
    experiment_id: ReadableExperiment,
    settings: SettingsDep,
    step: Annotated[int, Path(ge=1, lt=2**53)],
) -> StreamingResponse:
    """The file as the run wrote it: text, token ids, log-probs, rewards, advantages, versions."""
    found = await stored_rollouts.open_step(settings.output_dir(experiment_id), step)
    headers = {
        "Content-Length": str(found.num_bytes),
        "Content-Disposition": f'attachment; filename="{experiment_id}-{found.name}"',
    }
    return StreamingResponse(found.chunks(), media_type=PARQUET, headers=headers)


def _to_sample(row: RolloutSampleRow) -> RolloutSampleOut:
    return RolloutSampleOut.model_validate({name: getattr(row, name) for name in RolloutSampleOut.model_fields})
