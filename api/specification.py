"""A specification looked at from three sides: what was chosen, what stands at its default, what differs. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from api.specification_schemas import SpecChange
from service.contract.spec import ExperimentSpec

Body = Mapping[str, Any]
_KIND = "type"
"""Names the kind of an objective, a reward …: without it the rest means nothing, also where it is the default one."""
_NAMES = ("name", "description", "tags")
"""Differ in any case and change nothing of what runs."""
_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecLine:
    """A line of the resolved specification as YAML."""

    text: str
    is_default: bool


def resolved(spec: ExperimentSpec) -> dict[str, Any]:
    """With every default."""
    return spec.model_dump(mode="json")


def chosen(spec: ExperimentSpec) -> dict[str, Any]:
    """Without what stands at its default."""
    picked: dict[str, Any] = _chosen(resolved(spec), spec.model_dump(mode="json", exclude_defaults=True))
    return picked


def defaults(spec: ExperimentSpec) -> list[str]:
    """Dotted paths of the settings that stand at their default."""
    picked = chosen(spec)
    return [path for path, value in _leaves(resolved(spec)) if _at(picked, path) is _MISSING]


def changes(before: ExperimentSpec, after: ExperimentSpec) -> list[SpecChange]:
    """What differs, in the order of the settings; names and tags are left out."""
    one, other = dict(_leaves(resolved(before))), dict(_leaves(resolved(after)))
    paths = list(dict.fromkeys([*other, *one]))
    return [
        SpecChange(path=path, before=one.get(path), after=other.get(path))
        for path in paths
        if path not in _NAMES and one.get(path, _MISSING) != other.get(path, _MISSING)
    ]


def as_yaml(body: Body) -> str:
    """For people."""
    return str(yaml.safe_dump(dict(body), sort_keys=False, allow_unicode=True, width=100))


def lines(spec: ExperimentSpec) -> list[SpecLine]:
    """The resolved specification line by line, each marked where all of it stands at its default."""
    return list(_lines(resolved(spec), chosen(spec), 0))


def _chosen(whole: Any, picked: Any) -> Any:
    """`picked` with the kinds that belong to what it holds."""
    if not isinstance(whole, Mapping) or not isinstance(picked, Mapping):
        return picked if not isinstance(whole, list) else _chosen_items(whole, picked)
    return {
        key: _chosen(value, picked[key]) if key in picked else value
        for key, value in whole.items()
        if key in picked or key == _KIND
    }


def _chosen_items(whole: Sequence[Any], picked: Any) -> list[Any]:
    return [_chosen(one, other) for one, other in zip(whole, picked, strict=True)]


def _leaves(body: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted path; lists are one value."""
    if not isinstance(body, Mapping) or not body:
        yield path, body
        return
    for key, value in body.items():
        yield from _leaves(value, f"{path}.{key}" if path else key)


def _at(body: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(body, Mapping) or key not in body:
            return _MISSING
        body = body[key]
    return body


def _lines(whole: Body, picked: Any, depth: int) -> Iterator[SpecLine]:
    for key, value in whole.items():
        mine = picked[key] if isinstance(picked, Mapping) and key in picked else _MISSING
        if isinstance(value, Mapping) and value:
            yield SpecLine(text=f"{'  ' * depth}{key}:", is_default=mine is _MISSING)
            yield from _lines(value, mine, depth + 1)
        else:
            for line in as_yaml({key: value}).rstrip("\n").split("\n"):
                yield SpecLine(text=f"{'  ' * depth}{line}", is_default=mine is _MISSING)
