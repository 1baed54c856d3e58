"""A configuration as one table of dotted keys, with the file's own references followed."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_REFERENCE = re.compile(r"^\$\{(oc\.select:)?\s*([\w.]+)\s*(?:,\s*(.*?))?\s*\}$")
_MAX_HOPS = 8
_MAX_DEPTH = 30


class UnreadableConfig(ValueError):
    """The files are no configurations of this system, or not such as go together."""


def flattened(settings: Mapping[str, Any] | list[str]) -> dict[str, Any]:
    """Dotted keys and their values; Hydra's `${a.b}` and `${oc.select:a.b,default}` give what they point at."""
    flat = dict(_overrides(settings)) if isinstance(settings, list) else dict(_leaves(settings))
    return {key: _followed(key, value, flat) for key, value in flat.items()}


def _overrides(lines: list[str]) -> Iterator[tuple[str, Any]]:
    """`a.b=1`, with the plus signs by which Hydra adds what is new."""
    for line in lines:
        key, _, text = line.partition("=")
        if not key.startswith("~"):
            yield key.lstrip("+").split("@")[-1], _plain(text)


def _plain(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _leaves(node: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise UnreadableConfig(f"objects lie more than {_MAX_DEPTH} deep within each other; no configuration does that")
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _followed(key: str, value: Any, flat: Mapping[str, Any]) -> Any:
    """None where it points at nothing that this file has."""
    for _ in range(_MAX_HOPS):
        found = _REFERENCE.match(value) if isinstance(value, str) else None
        if found is None:
            return value
        _, target, otherwise = found.groups()
        value = flat[target] if target in flat else None if otherwise is None else _plain(otherwise)
    return None
