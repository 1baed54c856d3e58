"""Cells of the reference's tables: JSON Schema in words."""

import json
from typing import Any

Node = dict[str, Any]
"""A part of a JSON Schema."""

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_SIZES = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}


def cell(text: str | None) -> str:
    """Text that fits into one cell."""
    pieces = " ".join((text or "").split()).replace("|", "\\|").split("`")
    # What stands between backticks is shown as it is.
    return "`".join(piece.replace("<", "&lt;") if place % 2 == 0 else piece for place, piece in enumerate(pieces))


def code(text: str) -> str:
    """Code in a cell."""
    return f"`{text}`".replace("|", "\\|")


def name_of(reference: str) -> str:
    """The definition that a `$ref` names."""
    return reference.rsplit("/", 1)[-1]


def kind(node: Node) -> str:
    """A type in words, with links to the definitions of the same page."""
    if "$ref" in node:
        name = name_of(node["$ref"])
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in node:
            return " or ".join(dict.fromkeys(kind(one) for one in node[key]))
    if "allOf" in node:
        return " and ".join(kind(one) for one in node["allOf"])
    if "const" in node:
        return code(json.dumps(node["const"]))
    if "enum" in node:
        return ", ".join(code(json.dumps(one)) for one in node["enum"])
    if node.get("type") == "array":
        return f"list of {kind(node['items'])}" if node.get("items") else "list"
    if node.get("type") == "object" and isinstance(node.get("additionalProperties"), dict):
        return f"object of {kind(node['additionalProperties'])}"
    return _named(node)


def _named(node: Node) -> str:
    name = str(node.get("type", "any"))
    return f"{name} ({node['format']})" if "format" in node else name


def limits(node: Node) -> str:
    """What limits a value, to stand behind its type."""
    return f"; {found}" if (found := _bounds(node)) else ""


def _bounds(node: Node) -> str:
    found = [f"{sign} {node[key]}" for key, sign in _BOUNDS.items() if key in node]
    found += [words.format(node[key]) for key, words in _SIZES.items() if key in node]
    if "pattern" in node:
        found.append(f"matches {code(node['pattern'])}")
    for inner in [*node.get("anyOf", []), *([node["items"]] if isinstance(node.get("items"), dict) else [])]:
        found += [limit] if (limit := _bounds(inner)) and limit not in found else []
    return ", ".join(found)


def default(node: Node, *, required: bool) -> str:
    """A default, or that there is none."""
    if "default" in node:
        return code(json.dumps(node["default"]))
    return "**required**" if required else ""
