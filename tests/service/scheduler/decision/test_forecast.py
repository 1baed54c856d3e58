"""When those who wait will start at the latest."""

from math import inf
from typing import Any

from service.scheduler.decision import Situation, decide
from service.scheduler.decision.facts import Blockers, Cluster, Node, QueueEntry, Quota, Window
from service.scheduler.decision.forecast import forecast
from tests.service.scheduler.decision.situations import HOUR, NOW, bundles, demand, entry, node, running


def hours(*queue: QueueEntry, nodes: tuple[Node, ...] = (node(),), **facts: Any) -> dict[str, float]:
    """Each start in hours from now."""
    situation = Situation(now=NOW, queue=queue, cluster=Cluster(nodes=nodes), **facts)
    return {name: (at - NOW) / HOUR for name, at in forecast(situation, decide(situation)).items()}


def test_one_after_the_other_as_what_runs_ends() -> None:
    queue = [entry(name, demand(0, 4), queued_at=NOW + number) for number, name in enumerate("abc")]
    assert hours(*queue, running=[running("r", bundles("n1", 0, 4), left_s=2 * HOUR)]) == {"a": 2, "b": 3, "c": 4}


def test_two_that_fit_together_start_together() -> None:
    queue = [entry(name, demand(0, 2), queued_at=NOW + number) for number, name in enumerate("abc")]
    assert hours(*queue, running=[running("r", bundles("n1", 0, 4))]) == {"a": 1, "b": 1, "c": 2}


def test_kinds_of_gpu_have_lines_of_their_own() -> None:
    nodes = (node("a", 1, kind="A100"), node("h", 1, kind="H100"))
    busy = [running("ra", bundles("a", 1), left_s=5 * HOUR), running("rh", bundles("h", 1))]
    queue = [entry(kind, demand(1, gpu_types=(kind,))) for kind in ("A100", "H100")]
    assert hours(*queue, nodes=nodes, running=busy) == {"A100": 5, "H100": 1}


def test_nobody_knows_when_a_person_lets_go() -> None:
    quotas = {("p", "eve"): Quota(max_running=0)}
    queue = (entry("held", blockers=Blockers(held="by ada")), entry("quota", user="eve"))
    assert hours(*queue, quotas=quotas) == {"held": inf, "quota": inf}


def test_whoever_may_not_start_yet_keeps_nobody_waiting() -> None:
    later = entry("later", demand(0, 4), blockers=Blockers(not_before=NOW + 9 * HOUR), queued_at=0)
    found = hours(later, entry("a", demand(0, 4)), running=[running("r", bundles("n1", 0, 4))])
    assert found == {"a": 1, "later": 9}


def test_maintenance_is_waited_for() -> None:
    window = Window(starts_at=NOW + HOUR / 2, ends_at=NOW + 3 * HOUR, reason="disks")
    assert hours(entry("a"), windows=[window]) == {"a": 3}
