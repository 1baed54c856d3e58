"""The page of the specification, from its JSON Schema."""

import json
from collections.abc import Iterator
from typing import Any

from reference_cells import Node, cell, code, default, kind, limits, name_of

from service.contract.json_schema import experiment_schema

_INTRODUCTION = """# The specification

What `sedray submit` takes, as YAML or JSON; made from the JSON Schema, `docs/experiment.schema.json`, with which an
editor completes and checks it. Unknown keys are refused. `sedray submit FILE --dry-run` checks a whole specification.
"""


def spec_reference() -> str:
    """Every part with its fields, the whole first, then each in the order in which it is first named."""
    schema = experiment_schema()
    lines = [_INTRODUCTION, "## ExperimentSpec", "", *_part(schema)]
    for name in _in_order(schema):
        lines += [f"## {name}", "", *_part(schema["$defs"][name])]
    return "\n".join(lines).rstrip() + "\n"


def _in_order(schema: Node) -> list[str]:
    found: list[str] = []
    waiting = list(_references(schema["properties"]))
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            waiting = [*_references(schema["$defs"][name]), *waiting]
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield name_of(node["$ref"])
        for inner in node.values():
            yield from _references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _references(inner)


def _part(node: Node) -> Iterator[str]:
    if text := node.get("description"):
        yield from (text, "")
    if not node.get("properties"):
        yield from ([] if text else ["Any JSON value.", ""])
        return
    yield from ("| field | type | default | |", "|---|---|---|---|")
    required = set(node.get("required", ()))
    for name, field in node["properties"].items():
        shown = default(field, required=name in required)
        # The default of a whole part is that of its fields, which stand in its own table.
        shown = "its defaults" if isinstance(field.get("default"), dict) and "$ref" in field else shown
        yield f"| {code(name)} | {_type(field)}{limits(field)} | {shown} | {cell(field.get('description'))} |"
    yield ""


def _type(field: Node) -> str:
    """A union by `type` names each kind with its value of `type`."""
    for node, before in ((field, ""), (field.get("items", {}), "list of ")):
        for union in [node, *node.get("anyOf", [])]:
            if mapping := union.get("discriminator", {}).get("mapping"):
                kinds = [f"{code(json.dumps(value))} {kind({'$ref': target})}" for value, target in mapping.items()]
                return f"{before}by {code(union['discriminator']['propertyName'])}: {', '.join(kinds)}"
    return kind(field)
