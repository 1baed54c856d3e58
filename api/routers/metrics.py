"""Series of an experiment, for plots and for people who compute on them."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.access import ReadableExperiment
from api.deps import SessionDep
from api.problems import problem_responses
from api.schemas import (
    AttemptStart,
    MetricBucket,
    MetricInfo,
    MetricName,
    MetricNamePage,
    MetricPointOut,
    MetricSeriesOut,
    MetricSeriesPage,
)
from service import metric_store
from service.contract.metric_names import describe_metric
from service.contract.strict_model import WireModel

router = APIRouter(prefix="/experiments/{experiment_id}/metrics", tags=["metrics"])
Step = Annotated[int | None, Query(ge=0, lt=2**63)]


@router.get(
    "",
    summary="Read metric series as points or envelopes",
    response_model=MetricSeriesPage,
    responses=problem_responses(401, 404, 422),
)
async def read_metrics(
    experiment_id: ReadableExperiment,
    session: SessionDep,
    name: Annotated[
        list[str] | None, Query(max_length=200, description="May be repeated; left out: every one.")
    ] = None,
    max_points: Annotated[int, Query(ge=1, le=10_000, description="Points or buckets of each series.")] = 1000,
    from_step: Step = None,
    to_step: Step = None,
) -> Response:
    """Merged over attempts: where steps were run again, the latest attempt's values stand.

    A series with more points than `max_points` comes as min, max and mean of neighbouring points.
    NaN and infinities are the strings `NaN`, `Infinity` and `-Infinity`.
    """
    series = await metric_store.read_series(session, experiment_id, name or (), max_points, from_step, to_step)
    return _answer(MetricSeriesPage(series=[_to_series(one) for one in series]))


@router.get(
    "/names",
    summary="List the metrics with their newest values",
    response_model=MetricNamePage,
    responses=problem_responses(401, 404),
)
async def list_metric_names(experiment_id: ReadableExperiment, session: SessionDep) -> Response:
    """`num_points` counts a step once for each attempt that ran it."""
    entries = await metric_store.list_names(session, experiment_id)
    return _answer(MetricNamePage(items=[_to_name(entry) for entry in entries]))


def _answer(page: WireModel) -> Response:
    """The page as pydantic writes it: once, and with NaN as a string, which plain JSON has no number for."""
    return Response(page.model_dump_json(), media_type="application/json")


def _info(name: str) -> MetricInfo:
    known = describe_metric(name)
    if known is None:
        return MetricInfo(name=name, unit="", better="neither", stage="any", meaning="")
    return MetricInfo(name=name, unit=known.unit, better=known.better, stage=known.stage, meaning=known.meaning)


def _to_name(entry: metric_store.CatalogueEntry) -> MetricName:
    return MetricName(
        **dict(_info(entry.name)),
        num_points=entry.num_points,
        last_step=entry.last_step,
        last_value=entry.last_value,
        last_ts=entry.last_ts,
    )


def _to_series(series: metric_store.Series) -> MetricSeriesOut:
    points = series.points
    columns = zip(points.steps, points.ts, points.values, strict=True) if points else ()
    return MetricSeriesOut(
        **dict(_info(series.name)),
        num_points=series.num_points,
        kind="points" if points else "envelope",
        points=[MetricPointOut(step=step, ts=ts, value=value) for step, ts, value in columns],
        envelope=[_to_bucket(bucket) for bucket in series.envelope],
        attempts=[AttemptStart(number=start.number, first_step=start.first_step) for start in series.attempts],
    )


def _to_bucket(bucket: metric_store.Bucket) -> MetricBucket:
    return MetricBucket(
        first_step=bucket.first_step,
        last_step=bucket.last_step,
        num_points=bucket.num_points,
        num_finite=bucket.num_finite,
        min=bucket.min,
        max=bucket.max,
        mean=bucket.mean,
    )
