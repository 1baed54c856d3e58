"""What stands against reading figures side by side, in words. Pure."""

from collections.abc import Iterator, Sequence

from service.comparison.facts import ComparedRun, Group
from service.comparison.grouping import mixed_fields
from service.contract.status import ExperimentStatus
from service.study_report.comparability import comparable_parts, differences

_SHOWN = 6


def warnings_of(groups: Sequence[Group]) -> list[str]:
    """Measured differently; mixed groups; runs that are unfinished or failed; groups of one seed."""
    return [*_measured_differently(groups), *_mixed(groups), *_unfinished(groups), *_single_seeds(groups)]


def _measured_differently(groups: Sequence[Group]) -> Iterator[str]:
    """As the report of a study judges it, there with a table for each."""
    runs = [run for one in groups for run in one.runs if run.results]
    label = {run.id: one.label for one in groups for run in one.runs}
    parts = comparable_parts(runs)
    for one in differences(parts):
        said = "; ".join(
            f"{value} ({_some(sorted({label[arm] for arm in part.arms}))})"
            for value, part in zip(one.values, parts, strict=True)
        )
        yield f"Not measured alike, so figures may differ for that reason alone: {one.name}: {said}"


def _mixed(groups: Sequence[Group]) -> Iterator[str]:
    if mixed := mixed_fields(groups):
        yield (
            f"Some group mixes experiments that differ in more than seeds: {_some(mixed)}; "
            "group by these too, or its mean is over different settings"
        )


def _unfinished(groups: Sequence[Group]) -> Iterator[str]:
    runs = [run for one in groups for run in one.runs]
    bad = [run for run in runs if run.has_ended_badly]
    if bad:
        names = _some([run.id for run in bad])
        yield f"Failed or cancelled, though what was measured before is counted: {names}"
    going = [run for run in runs if not run.has_ended_badly and run.status is not ExperimentStatus.SUCCEEDED]
    if going:
        yield f"{_counted(going)} not over yet; figures may still change"


def _single_seeds(groups: Sequence[Group]) -> Iterator[str]:
    alone = [one.label for one in groups if len({(run.seed, run.rl_seed) for run in one.runs}) == 1]
    if len(groups) > 1 and alone:
        yield f"One seed only, so nothing is known of its chance: {_some(alone)}"


def _counted(runs: Sequence[ComparedRun]) -> str:
    return "1 experiment is" if len(runs) == 1 else f"{len(runs)} experiments are"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
