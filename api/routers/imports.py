"""Configurations of other systems, read into a specification."""

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic_core import PydanticSerializationError

from api.deps import CurrentUser
from api.problems import problem_responses
from service.contract.imports import ConfigImport, ImportRequest
from service.errors import InvalidRequest
from service.foreign_configs import UnreadableConfig, read_configs

router = APIRouter(tags=["data"])

_EXAMPLE = {
    "summary": "What `trl grpo --config` reads",
    "value": {
        "system": "trl",
        "configs": [{"name": "grpo.yaml", "settings": {"model_name_or_path": "/models/base", "num_generations": 8}}],
        "num_devices": 2,
    },
}


@router.post(
    "/import",
    summary="Read a configuration of TRL or verl into a specification",
    responses=problem_responses(401, 413, 422),
)
async def import_config(
    _: CurrentUser, request: Annotated[ImportRequest, Body(openapi_examples={"trl": _EXAMPLE})]
) -> ConfigImport:
    """With what was taken, what has no equivalent and why, and what was left at its default; stores nothing.

    A specification that is not valid yet is answered too, with its problems. Files and names are not looked at.
    """
    try:
        request.model_dump_json()  # half of a surrogate pair is no text that could be answered
        return read_configs(request)
    except (UnreadableConfig, PydanticSerializationError) as error:
        found = {"field": "configs", "problem": str(error)}
        raise InvalidRequest(str(error), errors=[found]) from error
