"""Engines that die, hang or fail: found, replaced, their requests asked again, and an end where nothing helps."""

import time

import pytest

from tests.workers.engine_lab import Lab, a_lab, hold_first, wait_until
from tests.workers.fake_engines import FACTS, QUICK, FakeEngine, ready_numbers, seeds_of
from workers.actors.vllm_adapter import EngineFailed
from workers.placement import ActorDied, Role
from workers.stages.engine_pool import REPLACEMENTS_PER_ENGINE
from workers.stages.engine_roster import EnginesLost, Member


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


def test_an_engine_without_a_successor_at_the_end_is_told_of_too() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.is_hung = engine.generation == 1

    with a_lab(2, prepare) as lab:
        lab.pool.wait_started()
        lab.host.engines[0].kill()
        lab.generate(8, 1)
        assert lab.reports.events == []
        lab.pool.release(0.0)
        assert [(kind, detail["engine"]) for kind, detail in lab.reports.events] == [("engine_lost", 0)]


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
