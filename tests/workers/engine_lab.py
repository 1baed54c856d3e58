"""A pool over fake engines, started and released around a test."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tests.workers.fake_actors import RecordedReports
from tests.workers.fake_engines import QUICK, SAMPLING, FakeEngine, FakeHost, InBackground, requests_of
from workers.rollouts import Completion
from workers.stages.engine_pool import EnginePool


class Cancelled(Exception):
    """What the check raises when a test says so."""


class Lab:
    """A started pool over fake engines."""

    def __init__(self, num_engines: int, prepare: Callable[[FakeEngine], None] = lambda engine: None) -> None:
        self.host = FakeHost(num_engines, prepare)
        self.reports = RecordedReports()
        self.is_cancelled = False
        self.pool = EnginePool(self.host, self.reports, self.check, QUICK)  # type: ignore[arg-type]

    def check(self) -> None:
        if self.is_cancelled:
            raise Cancelled

    def generate(self, num_prompts: int, num_generations: int) -> list[Completion]:
        return self.pool.generate(requests_of(num_prompts, num_generations), SAMPLING)

    def in_background(self, num_prompts: int, num_generations: int) -> InBackground:
        return InBackground(partial(self.generate, num_prompts, num_generations))


@contextmanager
def a_lab(num_engines: int, prepare: Callable[[FakeEngine], None] = lambda engine: None) -> Iterator[Lab]:
    lab = Lab(num_engines, prepare)
    lab.pool.begin_start()
    try:
        yield lab
    finally:
        lab.pool.release(0.0)


def wait_until(fact: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10.0
    while not fact():
        assert time.monotonic() < limit, "the fact did not come true in time"
        time.sleep(0.005)


def hold_first(*numbers: int) -> Callable[[FakeEngine], None]:
    """The first engines of some numbers hold back what they are asked."""

    def prepare(engine: FakeEngine) -> None:
        engine.is_held = engine.number in numbers and engine.generation == 0

    return prepare
