"""What people do with experiments."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.access import ControllableExperiment, ReadableExperiment
from api.cursors import decode_list_start, encode_list_start
from api.deps import CurrentUser, LooksDep, PlanDep, SessionDep, SessionsDep
from api.problems import problem_responses
from api.schemas import EventPage, Experiment, ExperimentCounts, ExperimentPage, ExperimentPlanReply
from api.shapes import read_experiment, to_event, to_summary
from api.submission import Submission, plan_now, submit
from service import experiments, listing
from service.contract.json_schema import experiment_schema
from service.contract.spec import ExperimentSpec
from service.contract.status import ExperimentStatus
from service.listing import ExperimentFilter, ListOrder

router = APIRouter(tags=["experiments"])

_REPLAYED = {"Idempotency-Replayed": {"description": "`true`", "schema": {"type": "string"}}}
_ONE_STAGE = {
    "name": "toy-sft",
    "model": {"path": "/data/models/toy"},
    "sft": {
        "data": {"path": "/data/sft.jsonl"},
        "objective": {"type": "sed"},
        "optimizer": {"learning_rate": 1e-3},
        "num_epochs": 10,
        "batch_size": 32,
    },
}
_ALL_STAGES = {
    **_ONE_STAGE,
    "name": "sft-then-rl",
    "rl": {
        "data": {"path": "/data/rl.jsonl"},
        "reward": {"type": "countdown"},
        "optimizer": {"learning_rate": 3e-4},
        "num_steps": 100,
        "num_prompts_per_step": 64,
        "num_generations": 8,
        "max_completion_length": 32,
    },
    "evaluation": {
        "data": {"path": "/data/test.jsonl"},
        "reward": {"type": "countdown"},
        "max_completion_length": 32,
    },
}
SPEC_EXAMPLES: dict[str, Any] = {
    "one stage": {"summary": "Supervised fine-tuning with SED", "value": _ONE_STAGE},
    "all stages": {"summary": "SFT, then RL, evaluated before, between and after", "value": _ALL_STAGES},
}


@router.post(
    "/experiments",
    summary="Submit an experiment, or see what would follow from it",
    status_code=201,
    response_model=Experiment | ExperimentPlanReply,
    responses={
        200: {
            "model": Experiment | ExperimentPlanReply,
            "description": "A dry run's plan, or the first answer to a repeated request",
            "headers": _REPLAYED,
        },
        **problem_responses(401, 403, 404, 409, 413, 422),
    },
)
async def submit_experiment(
    request: Request,
    response: Response,
    user: CurrentUser,
    looks: LooksDep,
    sessions: SessionsDep,
    planner: PlanDep,
    spec: Annotated[ExperimentSpec, Body(openapi_examples=SPEC_EXAMPLES)],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    dry_run: Annotated[bool, Query(description="Check and plan only; store nothing.")] = False,
    cloned_from: Annotated[
        str | None, Query(max_length=100, description="The experiment whose specification this one was made from.")
    ] = None,
) -> Experiment | ExperimentPlanReply:
    """Refuses what is malformed (`invalid_spec`) or cannot work (`cannot_run`) with every finding at once.

    The caller is a member of the specification's project, also for a dry run.
    """
    if dry_run:
        response.status_code = 200
        return ExperimentPlanReply(spec=spec, plan=await plan_now(looks, planner, user, spec))
    submission = Submission(
        user=user,
        spec=spec,
        body=await request.json(),
        idempotency_key=idempotency_key,
        cloned_from=cloned_from,
    )
    experiment, replayed = await submit(looks, sessions, planner, submission)
    if replayed:
        response.status_code = 200
        response.headers["Idempotency-Replayed"] = "true"
    return experiment


class ListQuery(BaseModel):
    """What a list is narrowed to. Parameters that are left out narrow nothing."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    status: list[ExperimentStatus] = []
    """Any of them; may be given several times."""
    project: str | None = None
    user: str | None = None
    """Who submitted."""
    tag: str | None = None
    objective: str | None = None
    """Of the SFT stage, such as `sed`."""
    name: str | None = None
    """A part of the name, in any case."""
    text: str | None = Field(default=None, max_length=200)
    """A part of the name, the description, the id or a tag, in any case."""

    def as_filter(self) -> ExperimentFilter:
        """For the service."""
        given = self.model_dump(include=set(ListQuery.model_fields) - {"status"})
        return ExperimentFilter(statuses=self.status, **given)


class PageQuery(ListQuery):
    """A page of a list."""

    order: ListOrder = "newest"
    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = None
    """`next_cursor` of the page before."""


@router.get("/experiments", summary="List experiments", responses=problem_responses(401, 422))
async def list_experiments(
    user: CurrentUser, session: SessionDep, query: Annotated[PageQuery, Query()]
) -> ExperimentPage:
    """Those of the caller's projects. Pages never skip or repeat an experiment, whatever is submitted meanwhile.

    In the orders `started` and `ended`, the latest comes first and what has not started or ended last.
    """
    start = decode_list_start(query.cursor, query.order) if query.cursor else None
    views, following = await listing.list_page(
        session, visible=user.visible, wanted=query.as_filter(), limit=query.limit, start=start, order=query.order
    )
    next_cursor = encode_list_start(following, query.order) if following else None
    headlines = await listing.headlines(session, [view.experiment.id for view in views])
    items = [to_summary(view, headlines.get(view.experiment.id)) for view in views]
    return ExperimentPage(items=items, next_cursor=next_cursor)


@router.get("/experiments/counts", summary="Count experiments by status", responses=problem_responses(401, 422))
async def count_experiments(
    user: CurrentUser, session: SessionDep, query: Annotated[ListQuery, Query()]
) -> ExperimentCounts:
    """Of the caller's projects, narrowed like the list; `status` narrows nothing here."""
    counts = await listing.count_by_status(session, visible=user.visible, wanted=query.as_filter())
    return ExperimentCounts(by_status=counts, total=sum(counts.values()))


@router.get("/experiments/{experiment_id}", summary="Show an experiment", responses=problem_responses(401, 404))
async def show_experiment(experiment_id: ReadableExperiment, session: SessionDep) -> Experiment:
    """With its specification, plan, attempts and stage results."""
    return await read_experiment(session, experiment_id)


@router.post(
    "/experiments/{experiment_id}/cancel",
    summary="Ask an experiment to stop",
    status_code=202,
    responses=problem_responses(401, 403, 404, 409),
)
async def cancel_experiment(
    experiment_id: ControllableExperiment, user: CurrentUser, session: SessionDep
) -> Experiment:
    """A queued experiment is cancelled at once; a live one becomes `cancelling` until its run has stopped."""
    await experiments.cancel(session, experiment_id, user=user)
    return await read_experiment(session, experiment_id)


@router.post(
    "/experiments/{experiment_id}/retry",
    summary="Queue a failed or cancelled experiment again",
    status_code=202,
    responses=problem_responses(401, 403, 404, 409),
)
async def retry_experiment(experiment_id: ControllableExperiment, user: CurrentUser, session: SessionDep) -> Experiment:
    """Finished stages are not run again; the unfinished one goes on from its last checkpoint."""
    await experiments.retry(session, experiment_id, user=user)
    return await read_experiment(session, experiment_id)


@router.get(
    "/experiments/{experiment_id}/events",
    summary="Read what happened, oldest first",
    responses=problem_responses(401, 404, 422),
)
async def list_events(
    experiment_id: ReadableExperiment,
    session: SessionDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only events with a larger id.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> EventPage:
    """`next_after` is null when there is nothing more for now."""
    rows = await experiments.events_after(session, experiment_id, after=after, limit=limit + 1)
    items = [to_event(row) for row in rows[:limit]]
    return EventPage(items=items, next_after=items[-1].id if len(rows) > limit else None)


@router.get("/schema/experiment", summary="JSON Schema of a specification")
async def show_experiment_schema() -> dict[str, Any]:
    """For editors; needs no token."""
    return experiment_schema()
