"""Which runs may stand in one table: those that were measured in the same way.

A figure depends on the prompts as tokens (set, template and tokenizer), the verifier, the sampling and the engine. Data
that two arms name alike must also be alike. What the arms were made to differ in, such as the objective or the data of
SFT, is the question and no obstacle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service.contract.study_report import Condition

ABSENT = "–"
"""Of a run to which a condition does not apply, such as a set that it does not have."""


class Measured(Protocol):
    """What comparability is judged by."""

    @property
    def arm(self) -> str:
        """Which side it is on."""

    @property
    def conditions(self) -> Mapping[str, str]:
        """What figures must agree in to be compared, as text by name."""

    @property
    def training_data(self) -> Mapping[str, str]:
        """Digests of what was trained, by how the specification names it."""


Run = TypeVar("Run", bound=Measured)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparableRuns(Generic[Run]):
    """Runs that agree in all conditions."""

    conditions: Mapping[str, str]
    runs: Sequence[Run]

    @property
    def arms(self) -> list[str]:
        """In the order of the runs."""
        return list(dict.fromkeys(run.arm for run in self.runs))


def comparable_parts(runs: Sequence[Run]) -> list[ComparableRuns[Run]]:
    """The runs with figures, in as few parts as their conditions allow; the largest part first."""
    ambiguous = _ambiguous_data(runs)
    conditions = [
        {**run.conditions, **{name: run.training_data[name] for name in ambiguous if name in run.training_data}}
        for run in runs
    ]
    names = sorted({name for found in conditions for name in found})
    members: dict[tuple[str, ...], list[Run]] = {}
    for run, found in zip(runs, conditions, strict=True):
        members.setdefault(tuple(found.get(name, ABSENT) for name in names), []).append(run)
    parts = [
        ComparableRuns(conditions=dict(zip(names, values, strict=True)), runs=alike)
        for values, alike in members.items()
    ]
    return sorted(parts, key=lambda part: -len(part.runs))


def _ambiguous_data(runs: Sequence[Measured]) -> list[str]:
    """The names of training data that do not mean the same in all runs."""
    meant: dict[str, set[str]] = {}
    for run in runs:
        for name, digest in run.training_data.items():
            meant.setdefault(name, set()).add(digest)
    return [name for name, digests in meant.items() if len(digests) > 1]


def differences(parts: Sequence[ComparableRuns[Run]]) -> list[Condition]:
    """The conditions in which the parts differ."""
    if len(parts) < 2:
        return []
    columns = {name: [part.conditions[name] for part in parts] for name in parts[0].conditions}
    return [Condition(name=name, values=values) for name, values in columns.items() if len(set(values)) > 1]


def agreed(part: ComparableRuns[Run]) -> dict[str, str]:
    """The part's conditions, those without content left out."""
    return {name: value for name, value in part.conditions.items() if value != ABSENT}
