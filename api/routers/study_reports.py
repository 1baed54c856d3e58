"""What a study has found: the report in every form, the counts behind it, and the specification to run it again."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse

from api.access import ReadableStudy
from api.deps import SessionDep, SessionsDep, StudyReportsDep
from api.problems import problem_responses
from api.study_spec_file import study_spec_yaml
from service.contract.study_report import StudyReport
from service.studies import read_counts, spec_and_amendments, view
from service.study_report import rendering

router = APIRouter(prefix="/studies/{study_id}", tags=["studies"])

PARQUET = "application/vnd.apache.parquet"
_CSV, _MARKDOWN, _TEX, _YAML = "text/csv", "text/markdown", "application/x-tex", "application/yaml"
KnownStamp = Annotated[
    str | None, Header(alias="If-None-Match", max_length=200, description="ETag of the report that one has.")
]
_ETAG: dict[str, Any] = {
    "ETag": {"description": "Another one when the report may be another.", "schema": {"type": "string"}}
}
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "Nothing has changed", "headers": _ETAG}}


def _found(media_type: str) -> dict[int | str, dict[str, Any]]:
    """The answers of a form of the report."""
    return problem_responses(401, 404, 422) | {200: {"content": {media_type: {}}, "headers": _ETAG}} | _UNCHANGED


@router.get(
    "/report",
    summary="Read the report of a study",
    response_model=StudyReport,
    responses=problem_responses(401, 404, 422) | {200: {"headers": _ETAG}} | _UNCHANGED,
)
async def show_report(study_id: ReadableStudy, reports: StudyReportsDep, if_none_match: KnownStamp = None) -> Response:
    """Computed from what is there now; a study that still runs says so. Scores and differences are shares of 1."""
    return await _answer(reports, study_id, if_none_match, StudyReport.model_dump_json, "application/json", None)


@router.get("/report.md", summary="The report as Markdown", response_class=Response, responses=_found(_MARKDOWN))
async def show_report_markdown(
    study_id: ReadableStudy, reports: StudyReportsDep, if_none_match: KnownStamp = None
) -> Response:
    """For people: per cent and points."""
    return await _answer(reports, study_id, if_none_match, rendering.report_markdown, _MARKDOWN, "md")


@router.get("/report.tex", summary="Its tables for LaTeX", response_class=Response, responses=_found(_TEX))
async def show_report_latex(
    study_id: ReadableStudy, reports: StudyReportsDep, if_none_match: KnownStamp = None
) -> Response:
    """Results and primary comparisons as `booktabs` tables."""
    return await _answer(reports, study_id, if_none_match, rendering.report_latex, _TEX, "tex")


@router.get("/report.csv", summary="Its figures as CSV", response_class=Response, responses=_found(_CSV))
async def show_report_csv(
    study_id: ReadableStudy, reports: StudyReportsDep, if_none_match: KnownStamp = None
) -> Response:
    """One row a figure."""
    return await _answer(reports, study_id, if_none_match, rendering.report_csv, _CSV, "csv")


@router.get("/report.parquet", summary="Its figures as Parquet", response_class=Response, responses=_found(PARQUET))
async def show_report_parquet(
    study_id: ReadableStudy, reports: StudyReportsDep, if_none_match: KnownStamp = None
) -> Response:
    """The same rows, typed."""
    return await _answer(reports, study_id, if_none_match, rendering.report_parquet, PARQUET, "parquet")


@router.get(
    "/counts.csv",
    summary="The counts behind the report as CSV",
    response_class=StreamingResponse,
    responses=problem_responses(401, 404) | {200: {"content": {_CSV: {}}}},
)
async def show_counts_csv(study_id: ReadableStudy, sessions: SessionsDep) -> StreamingResponse:
    """One row for each run, point, set and prompt, with n samples and c right ones; runs that do not count too."""
    async with sessions() as session:
        runs = await read_counts(session, study_id)
    return StreamingResponse(
        rendering.counts_csv(study_id, runs), media_type=_CSV, headers=_as_file(f"{study_id}-counts.csv")
    )


@router.get(
    "/counts.parquet",
    summary="The counts behind the report as Parquet",
    response_class=Response,
    responses=problem_responses(401, 404) | {200: {"content": {PARQUET: {}}}},
)
async def show_counts_parquet(study_id: ReadableStudy, sessions: SessionsDep) -> Response:
    """The same rows, typed."""
    async with sessions() as session:
        runs = await read_counts(session, study_id)
    content = await asyncio.to_thread(rendering.counts_parquet, study_id, runs)
    return Response(content, media_type=PARQUET, headers=_as_file(f"{study_id}-counts.parquet"))


@router.get(
    "/spec.yaml",
    summary="The specification of a study, to submit it again",
    response_class=Response,
    responses=problem_responses(401, 404) | {200: {"content": {_YAML: {}}}},
)
async def show_study_spec(study_id: ReadableStudy, session: SessionDep) -> Response:
    """As it stands, with its amendments."""
    study = (await view(session, study_id)).study
    spec, changes = await spec_and_amendments(session, study)
    content = study_spec_yaml(study_id, spec, len(changes))
    return Response(content, media_type=_YAML, headers=_as_file(f"{study_id}.yaml"))


async def _answer(
    reports: StudyReportsDep,
    study_id: str,
    known: str | None,
    form: Callable[[StudyReport], str | bytes],
    media_type: str,
    ending: str | None,
) -> Response:
    """The report in a form; nothing if the caller has it already."""
    if known is not None and known.strip().removeprefix("W/").strip('"') == await reports.stamp(study_id):
        return Response(status_code=304, headers={"ETag": known})
    found = await reports.current(study_id)
    content = await asyncio.to_thread(form, found.report)
    headers = _as_file(f"{study_id}-report.{ending}") if ending else {}
    return Response(content, media_type=media_type, headers={"ETag": f'"{found.stamp}"', **headers})


def _as_file(name: str) -> dict[str, str]:
    """A browser saves it under this name."""
    return {"Content-Disposition": f'attachment; filename="{name}"'}
