"""The OpenAPI document as stock generators of clients need it: names that read well, errors as what they are, and no
default that is an object."""

import json
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.problems import problem_responses
from api.schemas import Problem


def operation_id(route: APIRoute) -> str:
    """The route's function: generated clients call theirs the same."""
    return route.name


def improve_openapi(app: FastAPI) -> None:
    """Makes the app's document this one."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            _replace_validation_errors(document)
            _put_defaults_into_words(document)
        return original()

    app.openapi = openapi  # type: ignore[method-assign]


def _replace_validation_errors(document: dict[str, Any]) -> None:
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = document["components"]["schemas"]
    schemas.update({**problem.pop("$defs", {}), "Problem": problem})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        if "HTTPValidationError" in str(operation["responses"].get("422")):
            operation["responses"] |= {str(status): entry for status, entry in problem_responses(422).items()}


def _put_defaults_into_words(document: dict[str, Any]) -> None:
    """Generators know no default of a property that is an object, and leave its whole schema out."""
    for schema in document["components"]["schemas"].values():
        for described in _properties(schema):
            if isinstance(described.get("default"), dict):
                words = f"Default: `{json.dumps(described.pop('default'))}`."
                described["description"] = f"{described.get('description', '')} {words}".strip()


def _properties(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from schema.get("properties", {}).values()
