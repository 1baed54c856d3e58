"""From a question about stored rollouts to its answer: JSON for people, or a Parquet file."""

from typing import Any

from fastapi import Response
from fastapi.responses import StreamingResponse

from api.cursors import decode_place, encode_place
from api.schemas import RolloutSearchPage, StoredRolloutOut
from service.contract.rewards import reward_part_names
from service.contract.spec import ExperimentSpec
from service.contract.stored_rollouts import PART_PREFIX, RolloutQuery
from service.stored_rollouts import Search, begin_export, find_page

PARQUET = "application/vnd.apache.parquet"
_PAGE = 50


def search_of(query: RolloutQuery, spec: ExperimentSpec, output_dir: str) -> Search:
    """The question in the store's terms; raises InvalidRequest for a cursor that is none."""
    return Search(
        output_dir=output_dir,
        wanted=query,
        columns=query.wanted_columns,
        part_names=reward_part_names(spec.rl.reward) if spec.rl else [],
        order=query.order,
        start=decode_place(query.cursor, query.order) if query.cursor else None,
    )


async def answer_page(search: Search, query: RolloutQuery) -> Response:
    """One page as JSON."""
    found = await find_page(search, query.limit or _PAGE)
    page = RolloutSearchPage(
        items=[_to_rollout(row) for row in found.table.to_pylist()],
        next_cursor=encode_place(found.next_place, query.order) if found.next_place else None,
    )
    return Response(page.model_dump_json(exclude_unset=True), media_type="application/json")


async def answer_export(search: Search, query: RolloutQuery, experiment_id: str) -> Response:
    """Everything as a Parquet file, sent while it is written."""
    asked = query.model_dump(mode="json", exclude_defaults=True, exclude={"format", "cursor"})
    chunks = await begin_export(search, query.limit, {"experiment": experiment_id, "query": asked})
    headers = {"Content-Disposition": f'attachment; filename="{experiment_id}-rollouts.parquet"'}
    return StreamingResponse(chunks, media_type=PARQUET, headers=headers)


def _to_rollout(row: dict[str, Any]) -> StoredRolloutOut:
    parts = {name.removeprefix(PART_PREFIX): row.pop(name) for name in list(row) if name.startswith(PART_PREFIX)}
    return StoredRolloutOut.model_validate(row | ({"reward_parts": parts} if parts else {}))
