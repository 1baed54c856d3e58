"""Several engines as one: spreading, order, loss and replacement, with engines that a test can hold, hang and kill."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from tests.workers.fake_actors import RecordedReports
from tests.workers.fake_engines import (
    FACTS,
    QUICK,
    SAMPLING,
    FakeEngine,
    FakeHost,
    InBackground,
    ready_numbers,
    requests_of,
    seeds_of,
)
from workers.actors.vllm_adapter import EngineFailed
from workers.config_error import ConfigError
from workers.placement import ActorDied, Role
from workers.rollouts import Completion
from workers.stages.engine_batch import cut
from workers.stages.engine_pool import REPLACEMENTS_PER_ENGINE, EnginePool
from workers.stages.engine_roster import EnginesLost, Member


class Cancelled(Exception):
    """What a check raises in these tests."""


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


def test_portions_are_whole_groups_and_cover_all_requests() -> None:
    portions = list(cut(requests_of(10, 4), 10))
    assert [len(portion.requests) for portion in portions] == [8, 8, 8, 8, 8]
    assert [portion.first for portion in portions] == [0, 8, 16, 24, 32]
    assert [len(portion.requests) for portion in cut(requests_of(3, 4), 2)] == [4, 4, 4]
    assert list(cut([], 5)) == []


def test_one_engine_gets_everything_in_one_call() -> None:
    with a_lab(1) as lab:
        assert lab.pool.wait_started() == FACTS
        assert seeds_of(lab.generate(100, 8)) == list(range(100, 900))
        assert [len(portion) for portion in lab.host.engines[0].portions] == [800]


def test_nothing_is_asked_for_nothing() -> None:
    with a_lab(2) as lab:
        lab.pool.wait_started()
        assert lab.generate(0, 1) == []


def test_requests_are_spread_evenly_and_come_back_in_their_order() -> None:
    with a_lab(3, hold_first(0, 1, 2)) as lab:
        lab.pool.wait_started()
        generating = lab.in_background(32, 8)
        wait_until(lambda: sum(len(p) for engine in lab.host.engines for p in engine.portions) == 256)
        for engine in lab.host.engines:
            engine.let_go()
        assert seeds_of(generating.result()) == list(range(100, 356))  # type: ignore[arg-type]
        loads = [sum(map(len, engine.portions)) for engine in lab.host.engines]
        assert max(loads) - min(loads) <= 24
        for engine in lab.host.engines:
            assert all(len(portion) % 8 == 0 and portion[0].sample_index == 0 for portion in engine.portions)


def test_what_one_engine_has_no_room_for_goes_to_the_one_that_is_ready_first() -> None:
    with a_lab(2, hold_first(0)) as lab:
        lab.pool.wait_started()
        slow, fast = lab.host.engines
        generating = lab.in_background(400, 8)
        wait_until(lambda: sum(map(len, fast.portions)) == 3200 - 640)
        slow.let_go()
        assert seeds_of(generating.result()) == list(range(100, 3300))  # type: ignore[arg-type]
        assert sum(map(len, slow.portions)) == 640


def test_several_threads_may_ask_at_once() -> None:
    with a_lab(2, hold_first(0, 1)) as lab:
        lab.pool.wait_started()
        asking = [lab.in_background(4 + number, 4) for number in range(5)]
        wait_until(lambda: sum(len(p) for engine in lab.host.engines for p in engine.portions) == 120)
        for engine in lab.host.engines:
            engine.let_go()
        for number, one in enumerate(asking):
            assert seeds_of(one.result()) == list(range(100, 116 + 4 * number))  # type: ignore[arg-type]


def test_a_killed_engine_is_replaced_and_the_others_take_over_its_requests() -> None:
    with a_lab(2, hold_first(0)) as lab:
        lab.pool.wait_started()
        generating = lab.in_background(16, 8)
        lost, other = lab.host.engines[:2]
        wait_until(lambda: len(lost.portions) == 4 and len(other.portions) == 4)
        lost.kill()
        assert seeds_of(generating.result()) == list(range(100, 228))  # type: ignore[arg-type]
        wait_until(lambda: bool(lab.reports.events))
        [(kind, detail)] = lab.reports.events
        assert (kind, detail["engine"], detail["portions_reissued"], detail["requests_reissued"]) == (
            "engine_replaced",
            0,
            4,
            64,
        )
        assert "killed" in str(detail["cause"]) and detail["replacements_left"] == 5
        assert lab.pool.take_metrics() == {"engines/num_ready": 2.0, "engines/num_reissued": 64.0}
        assert lab.pool.take_metrics()["engines/num_reissued"] == 0.0


def test_the_only_engine_is_replaced_and_gets_the_same_requests_again() -> None:
    with a_lab(1, hold_first(0)) as lab:
        lab.pool.wait_started()
        generating = lab.in_background(4, 4)
        wait_until(lambda: bool(lab.host.engines[0].portions))
        lab.host.engines[0].kill()
        assert seeds_of(generating.result()) == list(range(100, 116))  # type: ignore[arg-type]
        assert lab.host.engines[1].portions == lab.host.engines[0].portions


def test_an_engine_that_fails_is_replaced_although_its_actor_lives() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.failure = EngineFailed("vLLM is dead") if (engine.number, engine.generation) == (1, 0) else None

    with a_lab(2, prepare) as lab:
        lab.pool.wait_started()
        assert seeds_of(lab.generate(8, 4)) == list(range(100, 132))
        wait_until(lambda: ready_numbers(lab.pool.members()) == [0, 1] and bool(lab.reports.events))
        assert lab.host.engines[1].is_dead
        assert "vLLM is dead" in str(lab.reports.events[0][1]["cause"])


@pytest.mark.parametrize("num_engines", [1, 2])
def test_an_engine_that_hangs_is_found_and_replaced(num_engines: int) -> None:
    with a_lab(num_engines) as lab:
        lab.pool.wait_started()
        lab.host.engines[0].is_hung = True
        assert seeds_of(lab.generate(8, 4)) == list(range(100, 132))
        wait_until(lambda: bool(lab.reports.events))
        assert "no token within" in str(lab.reports.events[0][1]["cause"])
        assert lab.host.engines[0].is_dead


def test_an_engine_that_dies_while_nothing_is_asked_is_replaced_too() -> None:
    with a_lab(1) as lab:
        lab.pool.wait_started()
        lab.host.engines[0].kill()
        wait_until(lambda: bool(lab.reports.events))
        assert lab.reports.events[0][1]["requests_reissued"] == 0
        lab.pool.check_start()


def test_an_engine_that_answers_is_left_alone() -> None:
    with a_lab(1, hold_first(0)) as lab:
        lab.pool.wait_started()
        generating = lab.in_background(2, 2)
        wait_until(lambda: lab.host.engines[0].num_pings >= 5)
        lab.host.engines[0].let_go()
        generating.result()
        assert len(lab.host.engines) == 1


def test_a_replacement_takes_the_weights_before_it_gets_a_request() -> None:
    joined: list[tuple[int, int]] = []

    def on_join(member: Member) -> None:
        engine: FakeEngine = member.engine  # type: ignore[assignment]
        joined.append((engine.number, len(engine.portions)))
        engine.version = 7

    lab = Lab(1)
    lab.pool.set_on_join(on_join)
    lab.pool.begin_start()
    lab.pool.wait_started()
    lab.host.engines[0].kill()
    assert {completion.policy_version for completion in lab.generate(2, 2)} == {7}
    assert joined == [(0, 0), (0, 0)]
    lab.pool.release(0.0)


def test_no_engine_joins_during_a_weight_sync() -> None:
    with a_lab(2) as lab:
        lab.pool.wait_started()
        with lab.pool.undisturbed():
            lab.host.engines[0].kill()
            lab.pool.retire(lab.pool.members()[0], EngineFailed("did not take the weights"))
            wait_until(lambda: len(lab.host.engines) == 3)
            time.sleep(5 * QUICK.poll_s)
            assert ready_numbers(lab.pool.members()) == [1]
        wait_until(lambda: ready_numbers(lab.pool.members()) == [0, 1])


def test_a_hung_engine_is_not_judged_during_a_weight_sync() -> None:
    with a_lab(1) as lab:
        lab.pool.wait_started()
        with lab.pool.undisturbed():
            lab.host.engines[0].is_hung = True
            time.sleep(2 * (QUICK.quiet_s + QUICK.token_s + QUICK.answer_s))
            assert ready_numbers(lab.pool.members()) == [0]
            lab.host.engines[0].is_hung = False
        lab.generate(1, 1)
        assert lab.reports.events == []


def test_a_replacement_that_does_not_start_counts_and_is_told_with_its_incident() -> None:
    def prepare(engine: FakeEngine) -> None:
        if engine.generation in (1, 2):
            engine.facts = EngineFailed("no memory on this node")

    with a_lab(1, prepare) as lab:
        lab.pool.wait_started()
        lab.host.engines[0].kill()
        lab.generate(1, 1)
        wait_until(lambda: bool(lab.reports.events))
        [(_, detail)] = lab.reports.events
        assert (detail["starts"], detail["replacements_left"]) == (3, 0)
        assert "killed" in str(detail["cause"])


def test_a_replacement_that_does_not_take_the_weights_counts_too() -> None:
    def on_join(member: Member) -> None:
        if member.engine.generation == 1:  # type: ignore[attr-defined]
            raise ActorDied(Role.ROLLOUT, "killed while it joined")

    with a_lab(1) as lab:
        lab.pool.set_on_join(on_join)
        lab.pool.wait_started()
        lab.host.engines[0].kill()
        lab.generate(1, 1)
        assert len(lab.host.engines) == 3


def test_beyond_its_replacements_the_pool_says_what_happened() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.failure = EngineFailed(f"vLLM is dead for the {engine.generation}. time")

    with a_lab(1, prepare) as lab:
        lab.pool.wait_started()
        with pytest.raises(EnginesLost, match=r"failed 4 times, .* replaces 3: \(1\) engine 0 on somewhere: vLLM"):
            lab.generate(1, 1)
        assert len(lab.host.engines) == 1 + REPLACEMENTS_PER_ENGINE
        with pytest.raises(EnginesLost):
            lab.pool.check_start()


@pytest.mark.parametrize("num_others", [0, 1])
def test_engines_that_run_out_of_memory_again_and_again_are_told_as_such(num_others: int) -> None:
    def prepare(engine: FakeEngine) -> None:
        if engine.number == 0:
            engine.failure = ActorDied(Role.ROLLOUT, "killed", out_of_memory=True)

    with a_lab(1 + num_others, prepare) as lab:
        lab.pool.wait_started()
        with pytest.raises(EngineFailed) as caught:
            while True:
                lab.generate(8, 1)
                lab.pool.check_start()
        assert caught.value.out_of_memory  # type: ignore[attr-defined]


def test_requests_that_no_engine_survives_are_named() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.failure = EngineFailed("vLLM is dead")

    with a_lab(4, prepare) as lab:
        lab.pool.wait_started()
        with pytest.raises(EngineFailed, match=r"5 rollout engines failed while they had the same 1 requests"):
            lab.generate(1, 1)


def test_without_any_engine_that_starts_the_first_failure_ends_it() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.facts = EngineFailed(f"model type unknown to engine {engine.number}")

    with a_lab(2, prepare) as lab:
        with pytest.raises(EngineFailed, match="model type unknown"):
            lab.pool.wait_started()
        with pytest.raises(EngineFailed, match="model type unknown"):
            lab.pool.check_start()
        assert len(lab.host.engines) == 2


def test_an_engine_that_did_not_start_is_replaced_once_another_has_shown_that_one_can() -> None:
    def prepare(engine: FakeEngine) -> None:
        if (engine.number, engine.generation) == (0, 0):
            engine.facts = EngineFailed("the node had no memory")

    with a_lab(2, prepare) as lab:
        assert lab.pool.wait_started() == FACTS
        wait_until(lambda: ready_numbers(lab.pool.members()) == [0, 1])


def test_a_setting_that_cannot_work_ends_the_pool_at_once() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.facts = ConfigError("no such folder") if engine.number == 1 else FACTS

    with a_lab(2, prepare) as lab, pytest.raises(ConfigError, match="no such folder"):
        lab.pool.wait_started()


def test_engines_that_stop_at_other_tokens_are_refused() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.facts = replace(FACTS, eos_token_ids=(2, engine.number))

    with a_lab(2, prepare) as lab, pytest.raises(ConfigError, match=r"eos_token_ids .* same model folder"):
        lab.pool.wait_started()


def test_the_slowest_start_is_that_of_the_pool() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.facts = replace(FACTS, start_s=5.0 + engine.number)

    with a_lab(2, prepare) as lab:
        assert lab.pool.wait_started().start_s == 6.0


def test_an_error_of_the_caller_is_the_callers() -> None:
    with a_lab(2) as lab:
        lab.pool.wait_started()
        for engine in lab.host.engines:
            engine.failure = ConfigError("a prompt is too long")
        with pytest.raises(ConfigError, match="too long"):
            lab.generate(8, 1)
        for engine in lab.host.engines:
            engine.failure = None
        assert len(lab.generate(8, 1)) == 8


def test_a_cancelled_caller_leaves_its_requests_and_the_pool_goes_on() -> None:
    with a_lab(2, hold_first(0, 1)) as lab:
        lab.pool.wait_started()
        generating = lab.in_background(4, 4)
        wait_until(lambda: all(engine.held for engine in lab.host.engines))
        lab.is_cancelled = True
        with pytest.raises(Cancelled):
            generating.result()
        lab.is_cancelled = False
        assert all(call.is_given_up for engine in lab.host.engines for call, _ in engine.held)
        assert [member.num_requests for member in lab.pool.members()] == [0, 0]


def test_a_release_ends_whoever_waits() -> None:
    with a_lab(1, hold_first(0)) as lab:
        lab.pool.wait_started()
        generating = lab.in_background(1, 1)
        wait_until(lambda: bool(lab.host.engines[0].portions))
        lab.pool.release(1.0)
        with pytest.raises(EngineFailed, match=r"released|killed"):
            generating.result()
        assert all(engine.is_dead for engine in lab.host.engines)


def test_a_pool_that_was_never_started_can_be_released() -> None:
    lab = Lab(2)
    lab.pool.check_start()
    lab.pool.release(1.0)
    assert lab.host.engines == []


def test_an_engine_can_come_and_go_while_the_pool_works() -> None:
    with a_lab(1) as lab:
        lab.pool.wait_started()
        number = lab.pool.add()
        wait_until(lambda: ready_numbers(lab.pool.members()) == [0, 1])
        added = lab.host.engines[1]
        added.is_held = True
        generating = lab.in_background(4, 4)
        wait_until(lambda: bool(added.held))
        lab.pool.remove(number)
        time.sleep(5 * QUICK.poll_s)
        assert not added.is_dead, "it still has something to do"
        added.let_go()
        assert seeds_of(generating.result()) == list(range(100, 116))  # type: ignore[arg-type]
        wait_until(lambda: lab.host.given_back == [number])
        assert added.is_dead and ready_numbers(lab.pool.members()) == [0]
        assert lab.reports.events == []
        with pytest.raises(ValueError, match="stays to the end"):
            lab.pool.remove(0)
