"""Engines that idle capacity lends: added, let go, and told of."""

from collections.abc import Mapping

import pytest
from pydantic import JsonValue

from service.contract.messages import ENGINE_LENT, ENGINE_NOT_ADDED, ENGINE_RETURNED, LentEngine
from workers.placement import NoPlacement
from workers.stages.lent_engines import LentEngines


class FakePool:
    """Two engines of its own; those that were removed go when a test says so."""

    def __init__(self) -> None:
        self.members = {0, 1}
        self.nodes: list[str] = []
        self.removed: list[int] = []
        self.serves = True
        self.is_full = False

    def is_serving(self) -> bool:
        return self.serves

    def add(self, node: str = "") -> int:
        if self.is_full:
            raise NoPlacement("no room on n1", 1.0)
        self.nodes.append(node)
        number = max(self.members) + 1
        self.members.add(number)
        return number

    def remove(self, number: int) -> None:
        self.removed.append(number)

    def numbers(self) -> set[int]:
        return set(self.members)


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, JsonValue]] = []

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        assert message
        self.events.append((kind, detail["id"]))


@pytest.fixture
def pool() -> FakePool:
    return FakePool()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def lent(pool: FakePool, told: Told) -> LentEngines:
    return LentEngines(pool, told)


def engines(*names: str) -> list[LentEngine]:
    return [LentEngine(id=name, node=f"node of {name}") for name in names]


def test_what_is_wanted_is_added_once_on_its_node(lent: LentEngines, pool: FakePool, told: Told) -> None:
    lent.want(engines("a", "b"))
    for _ in range(4):
        lent.make_it_so()
    assert pool.nodes == ["node of a", "node of b"]
    assert told.events == [(ENGINE_LENT, "a"), (ENGINE_LENT, "b")]


def test_what_is_no_longer_wanted_is_told_when_it_is_gone(lent: LentEngines, pool: FakePool, told: Told) -> None:
    lent.want(engines("a", "b"))
    lent.make_it_so()
    lent.make_it_so()
    lent.want(engines("b"))
    lent.make_it_so()
    assert pool.removed == [2]
    assert told.events[-1] == (ENGINE_LENT, "b"), "it still generates what it was given"
    pool.members.discard(2)
    lent.make_it_so()
    assert told.events[-1] == (ENGINE_RETURNED, "a")
    lent.make_it_so()
    assert len(told.events) == 3


def test_nothing_is_added_before_the_pool_serves(lent: LentEngines, pool: FakePool) -> None:
    pool.serves = False
    lent.want(engines("a"))
    lent.make_it_so()
    assert pool.nodes == []


def test_a_place_that_is_not_there_is_told_and_not_tried_again(lent: LentEngines, pool: FakePool, told: Told) -> None:
    pool.is_full = True
    lent.want(engines("a"))
    lent.make_it_so()
    pool.is_full = False
    lent.make_it_so()
    assert (told.events, pool.nodes) == ([(ENGINE_NOT_ADDED, "a")], [])


def test_a_pool_that_has_ended_ends_the_thread(lent: LentEngines, pool: FakePool) -> None:
    def fail() -> set[int]:
        raise RuntimeError("the engines were released")

    pool.numbers = fail  # type: ignore[method-assign]
    quick = LentEngines(pool, Told(), poll_s=0.01)
    quick.start()
    quick.stop()
