"""Several engines as one: portions, order, several callers, engines that come and go."""

import time
from dataclasses import replace

import pytest

from tests.workers.engine_lab import Cancelled, Lab, a_lab, hold_first, wait_until
from tests.workers.fake_engines import FACTS, QUICK, FakeEngine, ready_numbers, requests_of, seeds_of
from workers.actors.vllm_adapter import EngineFailed
from workers.config_error import ConfigError
from workers.stages.engine_batch import cut


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


def test_an_added_engine_that_fails_is_given_back_and_not_replaced() -> None:
    with a_lab(1) as lab:
        lab.pool.wait_started()
        lab.host.prepare = lambda engine: setattr(engine, "facts", ConfigError("no such folder on this node"))
        number = lab.pool.add()
        wait_until(lambda: bool(lab.reports.events))
        [(kind, detail)] = lab.reports.events
        assert (kind, detail["engine"], detail["replacements_left"]) == ("engine_lost", number, 3)
        assert lab.host.given_back == [number] and len(lab.generate(2, 2)) == 4


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
