"""The base of every model on the wire: unknown keys are refused, and the refusal names the nearest known key."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

Node = dict[str, Any]
"""A part of a JSON Schema."""


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


Moment = Annotated[AwareDatetime, Field(strict=False)]
"""A moment with its time zone, in JSON as ISO 8601 text; the one type that a strict model reads from text."""


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
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    nodes, shown = _walk(schema, path[:-1], definitions)
    _, last = _step(nodes, path[-1] if path else "", definitions)
    # Messages of our own validators come with pydantic's prefix.
    problem = details["msg"].removeprefix("Value error, ")
    entry: dict[str, Any] = {"field": ".".join([*shown, *last]) or "(body)", "problem": problem}
    if details["type"] == "extra_forbidden":
        known = sorted({key for node in nodes for leaf in _leaves(node, definitions) for key in _properties(leaf)})
        near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
        entry["problem"] = f"unknown key {path[-1]!r}"
        entry["hint"] = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
    return entry


def _walk(schema: Node, path: list[str], definitions: Node) -> tuple[list[Node], list[str]]:
    """The parts of the schema at `path`, and the path as a person wrote it."""
    nodes, shown = [schema], list[str]()
    for part in path:
        nodes, visible = _step(nodes, part, definitions)
        shown += visible
    return nodes, shown


def _step(nodes: list[Node], part: str, definitions: Node) -> tuple[list[Node], list[str]]:
    """One part further. pydantic puts the tag of a union's member into the path; nobody wrote that one."""
    leaves = [leaf for node in nodes for leaf in _leaves(node, definitions)]
    members = [leaf for leaf in leaves if _properties(leaf).get("type", {}).get("const") == part]
    children = [_properties(leaf)[part] for leaf in leaves if part in _properties(leaf)]
    if part.isdigit():
        children += [leaf["items"] for leaf in leaves if "items" in leaf]
    if not children and members:
        return members, []
    return children or nodes, [part] if part else []


def _properties(leaf: Node) -> Node:
    properties: Node = leaf.get("properties", {})
    return properties


def _leaves(node: Node, definitions: Node) -> list[Node]:
    if "$ref" in node:
        return _leaves(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    members = node.get("anyOf") or node.get("oneOf")
    return [leaf for member in members for leaf in _leaves(member, definitions)] if members else [node]
