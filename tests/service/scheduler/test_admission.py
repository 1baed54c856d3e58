"""Admission: pure, so held against its promises for any queue."""

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from service.scheduler.admission import Capacity, Decisions, QueuedExperiment, Resources, admit

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NONE = Resources(cpus=0, gpus=0)


def entry(name: str, *, cpus: float = 1, gpus: float = 0, rank: int = 2, minute: int = 0) -> QueuedExperiment:
    demand = Resources.demand(cpus, gpus)
    return QueuedExperiment(id=name, priority_rank=rank, queued_at=T0 + timedelta(minutes=minute), demand=demand)


def cluster(cpus: float, gpus: float = 0) -> Capacity:
    return Capacity(total=Resources.supply(cpus, gpus))


def decide(*queue: QueuedExperiment, taken: Resources = NONE, capacity: Capacity | None = None) -> Decisions:
    return admit(queue, taken, capacity or cluster(4))


def test_priority_comes_before_age_and_age_before_id() -> None:
    decisions = decide(entry("c", minute=1), entry("b"), entry("a"), entry("d", rank=0, minute=9))
    assert decisions.admissions == ("d", "a", "b", "c")


def test_the_reason_says_what_is_needed_what_is_free_and_the_place() -> None:
    decisions = decide(entry("a"), entry("b", cpus=2), entry("c", cpus=2), capacity=cluster(2))
    assert decisions.admissions == ("a",)
    assert decisions.waiting == {
        "b": "needs 2 CPUs, 1 of 2 free; 1st in line",
        "c": "needs 2 CPUs, 1 of 2 free; 2nd in line",
    }


def test_a_blocked_head_is_not_overtaken() -> None:
    decisions = decide(entry("big", cpus=4), entry("small"), taken=Resources.demand(1, 0))
    assert decisions.admissions == ()
    assert decisions.waiting["small"] == "needs 1 CPU, 3 of 4 free but kept for those ahead; 2nd in line"


def test_a_demand_beyond_the_cluster_blocks_nobody() -> None:
    decisions = decide(entry("huge", cpus=8, gpus=1), entry("small", minute=1))
    assert decisions.admissions == ("small",)
    assert decisions.waiting["huge"] == (
        "needs 8 CPUs, 4 in the whole cluster, needs 1 GPU, 0 in the whole cluster; 1st in line"
    )


def test_unknown_capacity_admits_nothing_and_says_so() -> None:
    decisions = decide(entry("a"), entry("b"), capacity=Capacity(total=None, unknown_because="Ray does not answer"))
    assert decisions.admissions == ()
    assert decisions.waiting == {"a": "Ray does not answer; 1st in line", "b": "Ray does not answer; 2nd in line"}


def test_a_cluster_that_shrank_admits_nothing_more_of_that_kind() -> None:
    decisions = decide(
        entry("cpu"), entry("gpu", gpus=1, minute=1), taken=Resources.demand(2, 4), capacity=cluster(4, 2)
    )
    assert decisions.admissions == ("cpu",)
    assert decisions.waiting["gpu"] == "needs 1 GPU, 0 of 2 free; 1st in line"


def test_fractions_add_up_exactly() -> None:
    tenths = [entry(f"e{number:02}", cpus=0.1) for number in range(11)]
    assert len(decide(*tenths, capacity=cluster(1)).admissions) == 10


amounts = st.integers(0, 80).map(lambda tenths: tenths / 10)
entries = st.lists(
    st.builds(entry, st.uuids().map(str), cpus=amounts, gpus=amounts, rank=st.integers(0, 4), minute=st.integers(0, 3)),
    unique_by=lambda queued: queued.id,
    max_size=12,
)
capacities = st.one_of(st.builds(cluster, amounts, amounts), st.just(Capacity(total=None, unknown_because="silence")))
takings = st.builds(Resources.demand, amounts, amounts)


@settings(deadline=None)
@given(entries, takings, capacities)
def test_admissions_never_exceed_capacity_and_everybody_is_answered(
    queue: list[QueuedExperiment], taken: Resources, capacity: Capacity
) -> None:
    decisions = admit(queue, taken, capacity)
    by_id = {queued.id: queued for queued in queue}
    assert set(decisions.admissions) | set(decisions.waiting) == set(by_id)
    assert len(decisions.admissions) + len(decisions.waiting) == len(queue)
    for name in decisions.admissions:
        assert capacity.total is not None
        assert by_id[name].demand.fits(capacity.total - taken), "each gets all that it needs, at once"
        taken = taken + by_id[name].demand


@settings(deadline=None)
@given(entries, takings, capacities)
def test_nobody_is_overtaken_by_one_behind_unless_the_cluster_is_too_small_for_him(
    queue: list[QueuedExperiment], taken: Resources, capacity: Capacity
) -> None:
    decisions = admit(queue, taken, capacity)
    in_order = sorted(queue, key=lambda queued: (queued.priority_rank, queued.queued_at, queued.id))
    possible = [queued.id for queued in in_order if capacity.total is None or queued.demand.fits(capacity.total)]
    assert list(decisions.admissions) == possible[: len(decisions.admissions)]
    if len(decisions.admissions) < len(possible) and capacity.total is not None:
        by_id = {queued.id: queued for queued in queue}
        for name in decisions.admissions:
            taken = taken + by_id[name].demand
        head = by_id[possible[len(decisions.admissions)]]
        assert not head.demand.fits(capacity.total - taken), "the head waits only for what is not there"


@settings(deadline=None)
@given(entries, takings, capacities, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    queue: list[QueuedExperiment], taken: Resources, capacity: Capacity, random: Random
) -> None:
    shuffled = random.sample(queue, len(queue))
    assert admit(queue, taken, capacity) == admit(shuffled, taken, capacity)
