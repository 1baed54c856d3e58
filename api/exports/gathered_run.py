"""An experiment with every point of every metric, read over the API."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from api.client import SedrayClient
from api.schemas import Experiment, MetricName, MetricPointOut

MAX_POINTS = 10_000
"""That the service gives at once for a series; longer ones are read in parts."""
_POINTS_PER_CALL = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric, its points in the order of their steps."""

    name: str
    points: Sequence[MetricPointOut]


def read_series(client: SedrayClient, experiment: Experiment) -> Iterator[Series]:
    """Every series whole, by name; short ones come several in a call."""
    for group in _grouped(client.metric_names(experiment.id).items):
        if len(group) == 1:
            only = group[0]
            points = list(_points(client, experiment.id, only.name, 0, only.last_step))
            yield Series(name=only.name, points=points)
            continue
        page = client.metrics(experiment.id, [one.name for one in group], max_points=MAX_POINTS)
        for one in page.series:
            yield Series(name=one.name, points=one.points)


def _grouped(names: Sequence[MetricName]) -> Iterator[list[MetricName]]:
    """Those that fit into one answer together; a long one stands alone."""
    group: list[MetricName] = []
    for one in names:
        if one.num_points > MAX_POINTS:
            yield [one]
            continue
        if group and (sum(other.num_points for other in group) + one.num_points > _POINTS_PER_CALL or len(group) >= 40):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _points(client: SedrayClient, experiment_id: str, name: str, first: int, last: int) -> Iterator[MetricPointOut]:
    """Of steps first to last; halved until the service gives points and no envelope."""
    page = client.metrics(experiment_id, [name], max_points=MAX_POINTS, from_step=first, to_step=last)
    found = page.series[0] if page.series else None
    if found is None:
        return
    if found.kind == "points" or first == last:
        yield from found.points
        return
    middle = (first + last) // 2
    yield from _points(client, experiment_id, name, first, middle)
    yield from _points(client, experiment_id, name, middle + 1, last)
