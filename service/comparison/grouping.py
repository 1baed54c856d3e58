"""Experiments in groups by fields of their specifications, and what else they differ in. Pure.

A field is a dotted path, such as `sft.objective.type`; a path may also name a whole part, such as `sft.objective`.
`arm` is the arm of the study that a run belongs to.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from service.comparison.facts import ComparedRun, Group
from service.contract.comparison import SpecDifference
from service.errors import InvalidRequest

ARM = "arm"
ABSENT = "–"
SEEDS = ("seed", "rl.seed")
_ASIDE = (*SEEDS, "name", "description", "tags", "project", "priority", "scheduling", "max_runtime_s", "max_retries")
_ASIDE_TOO = ("no_progress_timeout_s", "stall", "sentinels", "reuse")
"""These two say how a run is named and handled; no figure follows from them."""
_LONGEST_LABEL = 80
ALL = "all"


def fields_that_differ(runs: Sequence[ComparedRun]) -> list[str]:
    """Dotted paths of single values, in the order of the specification."""
    flat = [dict(_leaves(run.spec)) for run in runs]
    paths = dict.fromkeys(path for one in flat for path in one)
    return [path for path in paths if len({one.get(path, ABSENT) for one in flat}) > 1]


def telling_fields(runs: Sequence[ComparedRun]) -> list[str]:
    """The fewest fields, kinds before their settings, that tell apart all that differs in more than its seeds."""
    asked = [path for path in fields_that_differ(runs) if not _is_aside(path)]
    asked.sort(key=lambda path: not path.endswith(".type"))
    chosen: list[str] = []
    num_groups = 1
    for path in asked:
        found = len({tuple(value_at(run, one) for one in (*chosen, path)) for run in runs})
        if found > num_groups:
            chosen, num_groups = [*chosen, path], found
    return chosen


def group(runs: Sequence[ComparedRun], by: Sequence[str]) -> list[Group]:
    """In the order in which the runs bring them. Raises InvalidRequest for a field that none of them has."""
    _refuse_unknown(runs, by)
    members: dict[tuple[str, ...], list[ComparedRun]] = {}
    for run in runs:
        members.setdefault(tuple(value_at(run, path) for path in by), []).append(run)
    labels = _distinct([_label(by, values) for values in members])
    return [
        Group(label=label, values=dict(zip(by, values, strict=True)), runs=alike)
        for label, (values, alike) in zip(labels, members.items(), strict=True)
    ]


def differences(groups: Sequence[Group]) -> list[SpecDifference]:
    """All fields in which the runs differ, but their names."""
    runs = [run for one in groups for run in one.runs]
    found = []
    for path in fields_that_differ(runs):
        if path in ("name", "description"):
            continue
        values = [list(dict.fromkeys(value_at(run, path) for run in one.runs)) for one in groups]
        within = any(len(one) > 1 for one in values)
        found.append(SpecDifference(path=path, values=[", ".join(one) for one in values], within_groups=within))
    return found


def mixed_fields(groups: Sequence[Group]) -> list[str]:
    """What differs within a group beyond seeds and names."""
    return [one.path for one in differences(groups) if one.within_groups and not _is_aside(one.path)]


def value_at(run: ComparedRun, path: str) -> str:
    """As text; `–` where the specification has no such field."""
    if path == ARM:
        return run.study_arm or ABSENT
    node: Any = run.spec
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return ABSENT
        node = node[part]
    return _shown(node)


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Single values by their dotted path; lists are single values."""
    if isinstance(node, Mapping) and node:
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, _shown(node)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_aside(path: str) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in (*_ASIDE, *_ASIDE_TOO))


def _label(by: Sequence[str], values: Sequence[str]) -> str:
    if not by:
        return ALL
    if len(by) == 1:
        return _shortened(values[0])
    pairs = zip(by, values, strict=True)
    return _shortened(", ".join(f"{path.removesuffix('.type').rsplit('.', 1)[-1]} {value}" for path, value in pairs))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


def _distinct(labels: Sequence[str]) -> list[str]:
    """Equal beginnings of long texts get a number."""
    return [
        label if labels.count(label) == 1 else f"{label} ({labels[:place].count(label) + 1})"
        for place, label in enumerate(labels)
    ]


def _refuse_unknown(runs: Sequence[ComparedRun], by: Sequence[str]) -> None:
    for path in by:
        if any(value_at(run, path) != ABSENT for run in runs):
            continue
        known = sorted({ARM, *(one for run in runs for one, _ in _leaves(run.spec))})
        near = get_close_matches(path, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see the specification of one of them for its fields"
        problem = f"none of these experiments has a field {path!r}"
        raise InvalidRequest(f"{problem}; {hint}", errors=[{"field": "by", "problem": problem, "hint": hint}])
