"""What every decision keeps, whatever the queue and the cluster look like."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from service.scheduler.decision import Decisions, Situation, decide
from service.scheduler.decision.facts import Cluster, Node, QueueEntry, RunningAttempt
from service.scheduler.decision.fit import by_node
from service.scheduler.decision.resources import Demand, Placement, Resources, RoleDemand
from tests.service.scheduler.decision.situations import HOUR, NOW

KINDS = ("", "A", "B")
amounts = st.integers(0, 8).map(lambda halves: halves / 2)
nodes_of = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8), st.sampled_from(KINDS)), min_size=1, max_size=4)
roles = st.builds(
    lambda cpus, gpus, count, kinds: (Resources.demand(cpus, gpus), count, kinds if gpus else ()),
    amounts,
    st.sampled_from([0, 0.5, 1, 2]),
    st.integers(1, 4),
    st.sampled_from([(), ("A",), ("A", "B")]),
)
entries = st.lists(
    st.tuples(
        st.lists(roles, min_size=1, max_size=2),
        st.sampled_from("pq"),
        st.sampled_from("xyz"),
        st.integers(0, 4),
        st.integers(1, 4),
    ),
    max_size=10,
)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """A cluster, on which some of those who came earlier run, and those who came later wait."""
    nodes = tuple(
        Node(id=f"n{number}", total=Resources.supply(cpus, gpus), gpu_type=kind)
        for number, (gpus, cpus, kind) in enumerate(draw(nodes_of))
    )
    queue = [make_entry(number, *facts) for number, facts in enumerate(draw(entries))]
    num_early = draw(st.integers(0, len(queue)))
    before = Situation(now=NOW - HOUR, queue=queue[:num_early], cluster=Cluster(nodes=nodes))
    running = [
        running_of(next(entry for entry in queue if entry.id == admission.id), admission.placement, draw)
        for admission in decide(before).admissions
    ]
    return Situation(
        now=NOW,
        queue=queue[num_early:],
        running=running,
        cluster=Cluster(nodes=nodes),
        usage={("p", "x"): draw(st.floats(0, 1e5)), ("q", "y"): draw(st.floats(0, 1e5))},
    )


def make_entry(number: int, asked: list[tuple[Resources, int, tuple[str, ...]]], *facts: object) -> QueueEntry:
    project, user, rank, hours = facts
    demand = Demand(
        roles=tuple(
            RoleDemand(role=name, bundle=bundle, count=count, gpu_types=kinds)
            for name, (bundle, count, kinds) in zip(("trainer", "rollout"), asked, strict=False)
        )
    )
    return QueueEntry(
        id=f"e{number:02}",
        project=str(project),
        user=str(user),
        priority_rank=int(str(rank)),
        queued_at=NOW - 100 + number,
        demand=demand,
        max_runtime_s=int(str(hours)) * HOUR,
    )


def running_of(entry: QueueEntry, placement: Placement, draw: st.DrawFn) -> RunningAttempt:
    return RunningAttempt(
        id=f"{entry.id}-a1",
        experiment_id=entry.id,
        project=entry.project,
        user=entry.user,
        priority_rank=entry.priority_rank,
        placement=placement,
        started_at=NOW - HOUR,
        ends_at=NOW - HOUR + entry.max_runtime_s,
        preemptible=draw(st.booleans()),
        is_ending=draw(st.booleans()),
    )


@given(situations())
def test_everybody_is_answered_once(situation: Situation) -> None:
    decisions = decide(situation)
    answered = [admission.id for admission in decisions.admissions] + list(decisions.waiting)
    assert sorted(answered) == sorted(entry.id for entry in situation.queue)


@given(situations())
def test_no_node_ever_holds_more_than_it_has(situation: Situation) -> None:
    decisions = decide(situation)
    held = [attempt.placement for attempt in situation.running]
    grown = [resize.added for resize in decisions.resizes]
    assert overfull(situation, [*held, *grown, *(admission.placement for admission in decisions.admissions)]) == []


@given(situations())
def test_a_gang_gets_all_its_bundles_of_one_kind_a_role_or_none(situation: Situation) -> None:
    kind_of = {node.id: node.kind for node in situation.cluster.nodes}
    asked = {entry.id: entry.demand for entry in situation.queue}
    decisions = decide(situation)
    places = [(admission.id, admission.placement) for admission in decisions.admissions]
    places += [(reservation.id, reservation.placement) for reservation in decisions.reservations]
    for name, placement in places:
        expected = [(role.role, role.bundle) for role in asked[name].roles for _ in range(role.count)]
        assert [(bundle.role, bundle.resources) for bundle in placement] == expected
        for role in asked[name].roles:
            kinds = {kind_of[bundle.node] for bundle in placement if bundle.role == role.role}
            assert not role.bundle.gpus or len(kinds) == 1
            assert not role.gpu_types or kinds <= set(role.gpu_types)


@given(situations())
def test_nobody_admitted_delays_a_reservation_even_if_all_take_their_whole_time(situation: Situation) -> None:
    decisions = decide(situation)
    stopped = {preemption.attempt_id for preemption in decisions.preemptions}
    soon = NOW + situation.policy.release_s
    ends = [
        (soon if attempt.is_ending or attempt.id in stopped else max(attempt.ends_at, soon), attempt.placement)
        for attempt in situation.running
    ]
    runtime = {entry.id: entry.max_runtime_s for entry in situation.queue}
    ends += [(NOW + runtime[admission.id], admission.placement) for admission in decisions.admissions]
    for reservation in decisions.reservations:
        still = [placement for ends_at, placement in ends if ends_at > reservation.at]
        assert overfull(situation, [*still, reservation.placement]) == []


@given(situations())
def test_whoever_stands_first_waits_only_for_what_is_not_there(situation: Situation) -> None:
    decisions = decide(situation)
    first = next(iter(decisions.waiting), None)
    if first is not None and not decisions.admissions:
        entry = next(entry for entry in situation.queue if entry.id == first)
        alone = Situation(now=NOW, queue=[entry], running=situation.running, cluster=situation.cluster)
        assert decide(alone).admissions == ()


@given(situations(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(situation: Situation, random: Random) -> None:
    shuffled = Situation(
        now=situation.now,
        queue=random.sample(situation.queue, len(situation.queue)),
        running=situation.running,
        cluster=situation.cluster,
        usage=situation.usage,
    )
    assert shown(decide(situation)) == shown(decide(shuffled))


@given(situations())
def test_only_lower_classes_give_way_and_only_to_one_who_then_fits(situation: Situation) -> None:
    decisions = decide(situation)
    ranks = {entry.id: entry.priority_rank for entry in situation.queue}
    reserved = {reservation.id: reservation.at for reservation in decisions.reservations}
    for preemption in decisions.preemptions:
        victim = next(attempt for attempt in situation.running if attempt.id == preemption.attempt_id)
        assert preemption.in_favour_of is not None
        assert victim.preemptible
        assert not victim.is_ending
        assert victim.priority_rank > ranks[preemption.in_favour_of]
        assert reserved[preemption.in_favour_of] == NOW + situation.policy.release_s


def overfull(situation: Situation, placements: list[Placement]) -> list[str]:
    """Nodes on which the placements together take more than there is."""
    gpus: Counter[str] = Counter()
    cpus: Counter[str] = Counter()
    for placement in placements:
        for node, (its_gpus, its_cpus) in by_node(placement).items():
            gpus[node] += its_gpus
            cpus[node] += its_cpus
    size = {node.id: node.total for node in situation.cluster.nodes}
    return [node for node in cpus if gpus[node] > size[node].gpus or cpus[node] > size[node].cpus]


def shown(decisions: Decisions) -> tuple[object, ...]:
    """All of it, in an order that can be compared."""
    return decisions.admissions, list(decisions.waiting.items()), decisions.reservations, decisions.preemptions
