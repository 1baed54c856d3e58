"""Any set of experiments side by side."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from api.deps import CurrentUser, SessionDep
from api.problems import problem_responses
from service.comparison import Selection, Wanted, compare, comparison_csv, comparison_markdown
from service.contract.comparison import Comparison

router = APIRouter(tags=["experiments"])
_MOST_TEXT = 20_000


async def _selection(
    ids: Annotated[str, Query(max_length=_MOST_TEXT, description="Ids of experiments, with commas between.")] = "",
    study: Annotated[str, Query(max_length=100, description="The runs of a study.")] = "",
    tag: Annotated[str, Query(max_length=200, description="Those with this tag.")] = "",
    name: Annotated[str, Query(max_length=200, description="Those whose name has this part, in any case.")] = "",
    project: Annotated[str, Query(max_length=63, description="Only those of this project.")] = "",
) -> Selection:
    chosen = [one.strip() for one in ids.split(",") if one.strip()]
    return Selection(
        ids=tuple(dict.fromkeys(chosen)),
        study=study or None,
        tag=tag or None,
        name=name or None,
        project=project or None,
    )


async def _wanted(
    by: Annotated[
        list[Annotated[str, Query(max_length=2000)]] | None,
        Query(
            description="Group by these fields of the specification, such as `sft.objective.type`, or by `arm`; "
            "empty: one group. Left out: by the arms of a study, else by all that differs but seeds."
        ),
    ] = None,
    metric: Annotated[
        list[Annotated[str, Query(max_length=2000)]] | None,
        Query(description="Series to read, 12 at most. Left out: a few that say the most; empty: none."),
    ] = None,
) -> Wanted:
    return Wanted(by=_split(by), metrics=_split(metric))


def _split(values: list[str] | None) -> list[str] | None:
    """Repeated, or with commas between."""
    return None if values is None else [one.strip() for text in values for one in text.split(",") if one.strip()]


SelectionDep = Annotated[Selection, Depends(_selection)]
WantedDep = Annotated[Wanted, Depends(_wanted)]


@router.get(
    "/compare",
    summary="Compare any experiments, in groups, over seeds",
    response_model=Comparison,
    responses=problem_responses(401, 404, 422),
)
async def show_comparison(
    user: CurrentUser, session: SessionDep, selection: SelectionDep, wanted: WantedDep
) -> Response:
    """Means and 95 % intervals over seeds of every result, and series over steps. At most 200 experiments.

    `warnings` say what stands against reading the figures side by side.
    """
    found = await compare(session, user, selection, wanted)
    return Response(found.model_dump_json(), media_type="application/json")


@router.get(
    "/compare.csv",
    summary="The same as CSV",
    response_class=Response,
    responses=problem_responses(401, 404, 422) | {200: {"content": {"text/csv": {}}}},
)
async def show_comparison_csv(
    user: CurrentUser, session: SessionDep, selection: SelectionDep, wanted: WantedDep
) -> Response:
    """One row a figure: results, then the points of curves."""
    return _file(await compare(session, user, selection, wanted), comparison_csv, "text/csv", "csv")


@router.get(
    "/compare.md",
    summary="The same as Markdown",
    response_class=Response,
    responses=problem_responses(401, 404, 422) | {200: {"content": {"text/markdown": {}}}},
)
async def show_comparison_markdown(
    user: CurrentUser, session: SessionDep, selection: SelectionDep, wanted: WantedDep
) -> Response:
    """Warnings, results and differences, for people."""
    return _file(await compare(session, user, selection, wanted), comparison_markdown, "text/markdown", "md")


def _file(found: Comparison, form: Callable[[Comparison], str], media_type: str, ending: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="comparison.{ending}"'}
    return Response(form(found), media_type=media_type, headers=headers)
