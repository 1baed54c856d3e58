"""Weight sync over several engines: what is verified, who is replaced, and when the attempt ends."""

from pathlib import Path
from typing import Any

import pytest

from service.contract.weight_sync import WeightSyncSpec
from tests.workers.fake_weight_sync import FakePool, FakeTrainer
from workers.actors.vllm_adapter import EngineFailed
from workers.placement import ActorDied, Role
from workers.stages.weight_probe import Probe
from workers.stages.weight_synchroniser import ChecksumsDue, WeightSynchroniser
from workers.stages.weight_transports import FileShelf, ShelfTransport
from workers.weight_sync import WeightFolder, WeightSyncFailed

PROBE = Probe(sequences=((3, 4, 5), (6, 7)), limit=0.01)
DEATH = ActorDied(Role.ROLLOUT, "killed")


class Lab:
    """A synchroniser over a file in a folder."""

    def __init__(self, folder: Path, num_engines: int = 1, *, probe: Probe = PROBE, **settings: Any) -> None:
        self.trainer, self.pool = FakeTrainer(), FakePool(num_engines)
        shelf = FileShelf(self.trainer, WeightFolder(folder=folder), "attempt", lambda member: True)
        self.sync = WeightSynchroniser(
            trainer=self.trainer,
            engines=self.pool,
            transport=ShelfTransport(shelf),
            probe=lambda: probe,
            settings=WeightSyncSpec(**settings),
        )

    def run(self, version: int) -> dict[str, float]:
        self.trainer.weight = float(version)
        return self.sync(version)


def test_engines_hold_the_weights_and_hear_that_they_are_right(tmp_path: Path) -> None:
    lab = Lab(tmp_path, num_engines=2)
    metrics = lab.run(1)
    assert [engine.weight for engine in lab.pool.engines] == [1.0, 1.0]
    assert [engine.confirmed for engine in lab.pool.engines] == [[1], [1]]
    assert metrics["weight_sync/probe_logprob_abs_diff_max"] == 0.0
    assert {name.rpartition("/")[2] for name in metrics if name.startswith("timing_s/weight_sync/")} == {
        "pause", "gather", "transfer", "load", "verify"
    }  # fmt: skip
    assert metrics["timing_s/weight_sync/gather"] == 0.5
    assert metrics["timing_s/weight_sync/load"] == 0.2
    assert not lab.pool.is_undisturbed


def test_the_trainer_scores_while_the_engines_load(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run(1)
    assert lab.trainer.log == ["write policy-00000001.safetensors", "score"]


def test_an_engine_that_differs_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    lab = Lab(tmp_path, num_engines=2)
    lab.pool.engines[0].fault = 0.5
    wrong = lab.pool.engines[0]
    metrics = lab.run(1)
    ((number, error),) = lab.pool.retired
    assert number == 0 and "differ by up to 0.5 nats, and 0.01 is allowed" in str(error)
    assert wrong.confirmed == [] and lab.pool.engines[0].confirmed == [1]
    assert metrics["weight_sync/probe_logprob_abs_diff_max"] == pytest.approx(0.5)


@pytest.mark.parametrize("fault", [0.5, float("nan"), float("inf")])
def test_engines_that_all_differ_end_the_attempt_before_any_rollout(tmp_path: Path, fault: float) -> None:
    lab = Lab(tmp_path, num_engines=2)
    for engine in lab.pool.engines:
        engine.fault = fault
    with pytest.raises(WeightSyncFailed, match="does not hold the trainer's weights"):
        lab.run(1)
    assert [engine.confirmed for engine in lab.pool.engines] == [[], []]


def test_a_difference_within_the_limit_is_fine(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.pool.engines[0].fault = 0.009
    assert lab.run(1)["weight_sync/probe_logprob_abs_diff_max"] == pytest.approx(0.009)


@pytest.mark.parametrize("failure", [DEATH, EngineFailed("it hangs"), WeightSyncFailed("no place for a tensor")])
def test_an_engine_that_fails_is_replaced_and_the_others_go_on(tmp_path: Path, failure: Exception) -> None:
    lab = Lab(tmp_path, num_engines=3)
    lab.pool.engines[1].failure = failure
    lab.run(1)
    assert lab.pool.retired == [(1, failure)]
    assert [engine.confirmed for engine in lab.pool.engines] == [[1], [1]]


def test_an_engine_that_fails_after_its_update_is_replaced_too(tmp_path: Path) -> None:
    lab = Lab(tmp_path, num_engines=2)
    lab.pool.engines[0].late_failure = WeightSyncFailed("nobody confirmed it in time")
    lab.run(1)
    assert [number for number, _ in lab.pool.retired] == [0]
    with pytest.raises(ActorDied):
        lab.pool.join(2, late_failure=DEATH)


def test_weights_that_no_engine_takes_end_the_attempt(tmp_path: Path) -> None:
    lab = Lab(tmp_path, num_engines=2)
    for engine, failure in zip(lab.pool.engines, (DEATH, WeightSyncFailed("no place for a tensor")), strict=True):
        engine.failure = failure
    with pytest.raises(WeightSyncFailed, match="no place for a tensor"):
        lab.run(1)


def test_where_all_engines_are_lost_their_successors_get_the_weights_and_are_verified(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.pool.engines[0].failure = DEATH
    metrics = lab.run(1)
    assert "weight_sync/probe_logprob_abs_diff_max" not in metrics
    engine = lab.pool.join(0)
    assert (engine.weight, engine.confirmed) == (1.0, [1])
    with pytest.raises(WeightSyncFailed, match=r"differ by up to 0\.5"):
        lab.pool.join(1, fault=0.5)


def test_an_engine_that_joins_before_the_first_sync_keeps_what_it_started_with(tmp_path: Path) -> None:
    assert Lab(tmp_path).pool.join(1).calls == []


def test_an_engine_that_joins_is_compared_with_the_others(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run(1)
    with pytest.raises(WeightSyncFailed, match=r"engines 0 and 1 .* hold different ones: embed \(1 in all\)"):
        lab.pool.join(1, checksums={"embed": "b2"})
    assert lab.pool.join(2).confirmed == [1]


def test_an_engine_joins_although_the_other_one_is_lost_meanwhile(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run(1)
    lab.pool.engines[0].checksums = DEATH
    assert lab.pool.join(1).confirmed == [1]
    with pytest.raises(ActorDied):
        lab.pool.join(2, checksums=DEATH)


def test_engines_with_different_parameters_end_the_attempt(tmp_path: Path) -> None:
    lab = Lab(tmp_path, num_engines=2)
    lab.pool.engines[1].checksums = {"embed": "b2"}
    with pytest.raises(WeightSyncFailed, match="engines 0 and 1"):
        lab.run(1)


def test_checksums_are_taken_at_first_and_after_an_engine_has_joined(tmp_path: Path) -> None:
    lab = Lab(tmp_path, num_engines=2)
    for version in (1, 2, 3):
        lab.run(version)
    lab.pool.join(2)
    for version in (4, 5):
        lab.run(version)
    assert lab.trainer.digests_wanted == [True, False, False, True, False]
    assert lab.pool.engines[0].calls.count("checksums") == 3  # one of them with the engine that joined


@pytest.mark.parametrize(("every", "expected"), [(None, "x----"), (1, "xxxxx"), (2, "x-x-x"), (3, "x--x-")])
def test_checksums_are_taken_every_so_many_syncs(every: int | None, expected: str) -> None:
    due, found = ChecksumsDue(every), ""
    for _ in expected:
        hashed = due.now()
        due.done(hashed=hashed)
        found += "x" if hashed else "-"
    assert found == expected


def test_without_a_probe_nobody_scores(tmp_path: Path) -> None:
    lab = Lab(tmp_path, probe=Probe(sequences=(), limit=0.01))
    metrics = lab.run(1)
    assert "score" not in lab.trainer.log and lab.pool.engines[0].confirmed == [1]
    assert "weight_sync/probe_logprob_abs_diff_max" not in metrics
