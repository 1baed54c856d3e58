"""Which runs may stand in one table: those that were measured in the same way.

A figure depends on the prompts as tokens (set, template and tokenizer), the verifier, the sampling and the engine. Data
that two arms name alike must also be alike. What the arms were made to differ in, such as the objective or the data of
SFT, is the question and no obstacle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.contract.study_report import Condition
from service.study_report.facts import RunFacts

NOT_TOLD = "not told"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparableRuns:
    """Runs that agree in all conditions."""

    conditions: Mapping[str, str]
    runs: Sequence[RunFacts]

    @property
    def arms(self) -> list[str]:
        """In the order of the runs."""
        return list(dict.fromkeys(run.arm for run in self.runs))


def comparable_parts(runs: Sequence[RunFacts]) -> list[ComparableRuns]:
    """The runs with figures, in as few parts as their conditions allow; the largest part first."""
    names = sorted({name for run in runs for name in run.conditions})
    found: dict[tuple[str, ...], list[RunFacts]] = {}
    for run in runs:
        found.setdefault(tuple(run.conditions.get(name, NOT_TOLD) for name in names), []).append(run)
    parts = [
        ComparableRuns(conditions=dict(zip(names, values, strict=True)), runs=members)
        for values, members in found.items()
    ]
    return sorted(parts, key=lambda part: -len(part.runs))


def differences(parts: Sequence[ComparableRuns]) -> list[Condition]:
    """The conditions in which the parts differ."""
    if len(parts) < 2:
        return []
    columns = {name: [part.conditions[name] for part in parts] for name in parts[0].conditions}
    return [Condition(name=name, values=values) for name, values in columns.items() if len(set(values)) > 1]


def agreed(part: ComparableRuns) -> dict[str, str]:
    """The part's conditions, those without content left out."""
    return {name: value for name, value in part.conditions.items() if value != NOT_TOLD}
