"""Placement and waiting on a real Ray cluster."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from service.contract.resources import ResourcesSpec, RolloutResources, TrainerResources
from tests.workers.ray_head import RAY_MARKS, connected_ray
from workers.placement import (
    ActorDied,
    DeadlineExceeded,
    NoPlacement,
    Placement,
    Role,
    ended,
    fetch,
    kill,
    place,
    wait_for,
    wait_for_all,
)

pytestmark = RAY_MARKS


class Cancelled(Exception):
    """What a check raises in these tests."""


class Worker:
    """An actor with every way to end a call."""

    def __init__(self, *, greeting: str) -> None:
        self.greeting = greeting

    def greet(self) -> str:
        return self.greeting

    def process_id(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def fail(self) -> None:
        raise LookupError("no such folder")

    def die(self) -> None:
        os._exit(7)

    def lose_the_other(self) -> None:
        raise RuntimeError("connection closed by peer")


class AsyncWorker:
    """An actor whose calls run side by side."""

    def __init__(self, *, greeting: str) -> None:
        self.greeting = greeting

    async def greet(self) -> str:
        return self.greeting


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected_ray(num_cpus=2):
        yield


@pytest.fixture
def placement(cluster: None) -> Iterator[Placement]:
    placement = place(ResourcesSpec(), deadline_s=60.0, check=go_on)
    yield placement
    placement.remove()


def go_on() -> None:
    """Never raises."""


def wait(ref: object, deadline_s: float = 60.0) -> object:
    return wait_for(ref, what="the call", role=Role.TRAINER, deadline_s=deadline_s, check=go_on)


def test_both_kinds_of_actors_answer(placement: Placement) -> None:
    plain = placement.spawn(Worker, Role.TRAINER, greeting="hi")
    coroutines = placement.spawn(AsyncWorker, Role.ROLLOUT, max_concurrency=4, greeting="ho")
    assert wait(plain.greet.remote()) == "hi"
    assert wait(coroutines.greet.remote()) == "ho"
    assert placement.same_node


def test_each_engine_has_a_bundle_and_one_more_can_come_and_go(cluster: None) -> None:
    resources = ResourcesSpec(
        trainer=TrainerResources(num_cpus=0.5), rollout=RolloutResources(num_cpus=0.5, num_engines=2)
    )
    placement = place(resources, deadline_s=60.0, check=go_on)
    try:
        added = placement.add_engine(deadline_s=30.0, check=go_on)
        assert added == 2 and placement.same_node and placement.host_of(Role.ROLLOUT, added)
        engines = [placement.spawn(Worker, Role.ROLLOUT, place=number, greeting=str(number)) for number in range(3)]
        assert [wait(engine.greet.remote()) for engine in engines] == ["0", "1", "2"]
        with pytest.raises(NoPlacement):
            placement.add_engine(deadline_s=0.5, check=go_on)
        with pytest.raises(ValueError, match="held to its end"):
            placement.remove_engine(1)
        placement.remove_engine(added)
        with pytest.raises(ActorDied):
            wait(engines[added].greet.remote())
    finally:
        placement.remove()


def test_who_works_by_turns_shares_a_bundle(cluster: None) -> None:
    resources = ResourcesSpec(
        trainer=TrainerResources(num_cpus=2), rollout=RolloutResources(num_cpus=1), placement="colocated"
    )
    placement = place(resources, deadline_s=60.0, check=go_on)
    try:
        rank = placement.spawn(Worker, Role.TRAINER, greeting="hi")
        engine = placement.spawn(AsyncWorker, Role.ROLLOUT, greeting="ho")
        assert (wait(rank.greet.remote()), wait(engine.greet.remote())) == ("hi", "ho")
        assert placement.node_of(Role.TRAINER) == placement.node_of(Role.ROLLOUT)
        with pytest.raises(NoPlacement):
            place(resources, deadline_s=0.5, check=go_on)
    finally:
        placement.remove()


def test_another_actor_takes_the_bundle_of_a_dead_one(placement: Placement) -> None:
    kill(placement.spawn(Worker, Role.ROLLOUT, greeting="first"))
    again = placement.spawn(Worker, Role.ROLLOUT, greeting="second")
    assert wait(again.greet.remote()) == "second"


def test_a_stopped_actor_can_be_killed_and_replaced(placement: Placement) -> None:
    first = placement.spawn(Worker, Role.ROLLOUT, greeting="first")
    os.kill(wait(first.process_id.remote()), signal.SIGSTOP)  # type: ignore[arg-type]
    kill(first)
    again = placement.spawn(Worker, Role.ROLLOUT, greeting="second")
    assert wait(again.greet.remote()) == "second"


def test_more_than_the_cluster_has_is_refused_with_both_numbers(cluster: None) -> None:
    resources = ResourcesSpec(trainer=TrainerResources(num_cpus=64.0))
    with pytest.raises(NoPlacement, match=r"needed .*64.*CPU: .* of 2 free"):
        place(resources, deadline_s=1.0, check=go_on)
    # The refused group holds nothing: what the cluster has can still be had.
    place(ResourcesSpec(), deadline_s=30.0, check=go_on).remove()


def test_actors_own_exception_arrives_with_its_remote_traceback(placement: Placement) -> None:
    actor = placement.spawn(Worker, Role.TRAINER, greeting="hi")
    with pytest.raises(LookupError, match="no such folder") as caught:
        wait(actor.fail.remote())
    assert "in fail" in str(caught.value.__cause__)


def test_dead_actor_is_named(placement: Placement) -> None:
    actor = placement.spawn(Worker, Role.TRAINER, greeting="hi")
    with pytest.raises(ActorDied, match="trainer actor died") as caught:
        wait(actor.die.remote())
    assert not caught.value.out_of_memory


def test_calls_that_have_ended_are_told_from_those_under_way(placement: Placement) -> None:
    actor = placement.spawn(Worker, Role.TRAINER, greeting="hi")
    greetings = [actor.greet.remote(), actor.greet.remote()]
    wait_all(greetings)
    sleeping = actor.sleep.remote(60.0)
    assert ended([*greetings, sleeping], 30.0) == greetings
    assert ended([sleeping], 0.1) == []
    kill(actor)
    assert ended([sleeping], 30.0) == [sleeping]
    with pytest.raises(ActorDied):
        fetch(sleeping, Role.TRAINER)


def test_slow_call_meets_its_deadline(placement: Placement) -> None:
    actor = placement.spawn(Worker, Role.TRAINER, greeting="hi")
    wait(actor.greet.remote())
    with pytest.raises(DeadlineExceeded, match="the call did not end within"):
        wait(actor.sleep.remote(30.0), deadline_s=0.3)


def test_check_ends_a_wait(placement: Placement) -> None:
    actor = placement.spawn(Worker, Role.TRAINER, greeting="hi")
    wait(actor.greet.remote())
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() > began + 0.2:
            raise Cancelled

    with pytest.raises(Cancelled):
        wait_for(actor.sleep.remote(30.0), what="x", role=Role.TRAINER, deadline_s=60.0, check=check)
    assert time.monotonic() - began < 5.0


@pytest.fixture
def two_ranks(cluster: None) -> Iterator[list[Any]]:
    resources = ResourcesSpec(
        trainer=TrainerResources(num_ranks=2, num_cpus=0.5), rollout=RolloutResources(num_cpus=0.5)
    )
    placement = place(resources, deadline_s=60.0, check=go_on)
    assert placement.hosts == ("127.0.0.1", "127.0.0.1")
    ranks = [placement.spawn(Worker, Role.TRAINER, place=rank, greeting=f"rank {rank}") for rank in range(2)]
    assert wait_all([rank.greet.remote() for rank in ranks]) == ["rank 0", "rank 1"]
    yield ranks
    placement.remove()


def wait_all(refs: list[Any], deadline_s: float = 60.0) -> list[Any]:
    return wait_for_all(refs, what="the call", role=Role.TRAINER, deadline_s=deadline_s, check=go_on)


def test_the_failure_of_one_rank_ends_the_wait_for_all(two_ranks: list[Any]) -> None:
    began = time.monotonic()
    with pytest.raises(LookupError, match="no such folder"):
        wait_all([two_ranks[0].sleep.remote(60.0), two_ranks[1].fail.remote()])
    assert time.monotonic() - began < 10.0


def test_a_lost_rank_is_named_rather_than_the_one_that_misses_it(two_ranks: list[Any]) -> None:
    with pytest.raises(ActorDied, match="trainer actor, rank 1, died"):
        wait_all([two_ranks[0].lose_the_other.remote(), two_ranks[1].die.remote()])


def test_an_error_without_a_death_behind_it_is_told_as_it_is(two_ranks: list[Any]) -> None:
    with pytest.raises(RuntimeError, match="closed by peer"):
        wait_all([two_ranks[0].lose_the_other.remote(), two_ranks[1].greet.remote()])


def test_slow_ranks_meet_their_deadline(two_ranks: list[Any]) -> None:
    with pytest.raises(DeadlineExceeded):
        wait_all([two_ranks[0].greet.remote(), two_ranks[1].sleep.remote(30.0)], deadline_s=0.5)
