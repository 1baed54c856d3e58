"""The simulated cluster: everybody starts, nobody is favoured, and the figures mean what they say."""

from dataclasses import replace

import pytest

from bench.queue_simulator import Record, Simulator
from bench.queue_workload import Job, cluster, demand_of, draw_jobs
from bench.simulate_queue import fairness, jain, max_min, utilisation
from service.scheduler.decision.facts import Policy, QueueEntry, Shares
from service.scheduler.decision.resources import Demand

HOUR = 3600.0
NUM_GPUS = 64


def job(name: str, user: str, *, at: float, size: int = 8, hours: float = 1.0, rank: int = 2) -> Job:
    entry = QueueEntry(
        id=name,
        project="p",
        user=user,
        priority_rank=rank,
        queued_at=at,
        demand=DEMANDS[size],
        max_runtime_s=hours * HOUR * 1.5,
    )
    return Job(entry=entry, runtime_s=hours * HOUR, num_gpus=size, preemptible=rank >= 3)


DEMANDS: dict[int, Demand] = {}
for _size in (1, 8, 64):
    demand_of(_size, DEMANDS)


def use_by_user(record: Record, until: float) -> dict[str, float]:
    """GPU-hours until a moment."""
    used: dict[str, float] = {}
    for life in record.lives.values():
        if life.first_start is not None and life.first_start < until:
            hours = (min(life.ended_at or until, until) - life.first_start) / HOUR
            used[life.job.entry.user] = used.get(life.job.entry.user, 0.0) + life.job.num_gpus * hours
    return used


def test_use_of_equal_users_converges_however_they_submit() -> None:
    """One submits everything at once, one in a steady stream, one in large pieces: all want more than a third."""
    flood = [job(f"a{number:03}", "flood", at=0.0) for number in range(400)]
    stream = [job(f"b{number:03}", "stream", at=number * HOUR / 8) for number in range(400)]
    large = [job(f"c{number:03}", "large", at=0.0, size=64, hours=0.5) for number in range(100)]
    jobs = sorted([*flood, *stream, *large], key=lambda one: one.entry.queued_at)
    until = 40 * HOUR
    record = Simulator(jobs, cluster(NUM_GPUS)).run(until)
    used = use_by_user(record, until)
    mean = sum(used.values()) / 3
    assert all(abs(value - mean) <= 0.1 * mean for value in used.values()), used


def test_shares_of_use_follow_the_shares_that_were_given() -> None:
    jobs = [job(f"{user}{number:03}", user, at=0.0) for number in range(300) for user in ("one", "two")]
    shares = Shares(of_users={("p", "one"): 3.0})
    record = Simulator(jobs, cluster(NUM_GPUS), shares=shares).run(30 * HOUR)
    used = use_by_user(record, 30 * HOUR)
    assert used["one"] == pytest.approx(3 * used["two"], rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_everything_starts_in_bounded_time_under_a_stream_that_the_cluster_can_carry(seed: int) -> None:
    """Nobody, of any size, waits longer than it takes to run all that was there when he came, and a little."""
    jobs = draw_jobs(300, num_users=6, num_gpus=NUM_GPUS, load=0.8, seed=seed)
    fitting = [replace(one, preemptible=False) for one in jobs if one.num_gpus <= NUM_GPUS]
    record = Simulator(fitting, cluster(NUM_GPUS)).run()
    assert all(life.ended_at is not None for life in record.lives.values())
    for life in record.lives.values():
        assert life.first_start is not None
        waited = life.first_start - life.job.entry.queued_at
        assert waited <= 10 * 24 * HOUR


def test_a_large_experiment_starts_although_small_ones_never_stop_coming() -> None:
    """Their user has used less all the time: without a promise the large one would never get all nodes at once."""
    small = [job(f"s{number:04}", f"user{number}", at=number * HOUR / 80, size=1, hours=1.0) for number in range(4000)]
    large = job("large", "heavy", at=HOUR, size=64, hours=1.0)
    jobs = sorted([*small, large], key=lambda one: one.entry.queued_at)
    record = Simulator(jobs, cluster(NUM_GPUS)).run(20 * HOUR)
    started = record.lives["large"].first_start
    assert started is not None and started - HOUR < 4 * HOUR


def test_a_preempted_experiment_runs_for_its_whole_time_in_all() -> None:
    low = job("low", "a", at=0.0, size=64, hours=3.0, rank=4)
    high = job("high", "b", at=HOUR, size=64, hours=1.0, rank=1)
    record = Simulator([low, high], cluster(NUM_GPUS), policy=Policy(preempt_exempt_s=0)).run()
    lives = record.lives
    assert lives["low"].num_preempted == 1
    assert lives["high"].first_start is not None and lives["high"].first_start <= HOUR + 5 * 60
    assert lives["low"].ended_at == pytest.approx(4 * HOUR, abs=600)


def test_a_cluster_that_is_always_full_is_fully_used() -> None:
    jobs = [job(f"a{number:03}", "a", at=0.0) for number in range(80)]
    record = Simulator([*jobs, job("last", "a", at=9 * HOUR)], cluster(NUM_GPUS)).run()
    assert utilisation(record, [*jobs, job("last", "a", at=9 * HOUR)], NUM_GPUS) > 0.95


def test_fairness_is_one_for_equals_and_low_for_one_who_has_all() -> None:
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert max_min({"a": 1.0, "b": 5.0, "c": 9.0}, 9.0) == {"a": 1.0, "b": 4.0, "c": 4.0}
    jobs = [job(f"{user}{number}", user, at=0.0) for number in range(30) for user in ("a", "b")]
    record = Simulator(jobs, cluster(NUM_GPUS)).run()
    assert fairness(record, 2 * HOUR) > 0.95
