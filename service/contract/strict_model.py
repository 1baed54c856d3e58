"""The base of every model on the wire: unknown keys are refused, and the refusal names the nearest known key."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails


class StrictModel(BaseModel):
    """Specification parts written by people: no unknown key, no silent conversion of types, immutable."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class WireModel(BaseModel):
    """Messages between our own processes: no unknown key; NaN and infinities survive JSON as strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


def describe_errors(error: ValidationError, model: type[BaseModel]) -> list[dict[str, Any]]:
    """The problems of a refused body: `field` (dotted path), `problem`, and `hint` where one is known."""
    return describe_details(error.errors(include_url=False), model)


def describe_details(details: Sequence[ErrorDetails], model: type[BaseModel]) -> list[dict[str, Any]]:
    """The same from pydantic's own details, whose paths start at `model`."""
    return [_describe(entry, model) for entry in details]


def _describe(details: ErrorDetails, model: type[BaseModel]) -> dict[str, Any]:
    path = [str(part) for part in details["loc"]]
    entry: dict[str, Any] = {"field": ".".join(path) or "(body)", "problem": details["msg"]}
    if details["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
        entry["problem"] = f"unknown key {path[-1]!r}"
        entry["hint"] = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(sorted(known))}"
    return entry


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """Keys allowed at `path`; a union contributes the keys of the member whose tag stands in the path, else of all."""
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    nodes = [schema]
    for part in path:
        nodes = [child for node in nodes for child in _children(node, part, definitions)] or nodes
    return sorted({key for node in nodes for leaf in _leaves(node, definitions) for key in leaf.get("properties", {})})


def _children(node: dict[str, Any], part: str, definitions: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for leaf in _leaves(node, definitions):
        if part in leaf.get("properties", {}):
            found.append(leaf["properties"][part])
        elif part.isdigit() and "items" in leaf:
            found.append(leaf["items"])
        elif leaf.get("properties", {}).get("type", {}).get("const") == part:
            found.append(leaf)  # pydantic puts the tag of a union member into the error's path
    return found


def _leaves(node: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in node:
        return _leaves(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    members = node.get("anyOf") or node.get("oneOf")
    return [leaf for member in members for leaf in _leaves(member, definitions)] if members else [node]
