"""A run of two ranks trained again: by two processes to the bit, by one up to rounding."""

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.contract.spec import ExperimentSpec
from tests.workers.actors.rank_processes import TrainerRanks, make_settings, trainer_ranks
from tests.workers.rollout_groups import step_to_store
from tests.workers.tiny_model import make_model_folder, make_rl_spec, make_samples
from workers.checkpoints import DamagedCheckpoint
from workers.replay import replay
from workers.replay.rank_processes import RankLost, RankProcesses
from workers.stages.rollout_store import store_rollouts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def two() -> Iterator[TrainerRanks]:
    with trainer_ranks(2) as ranks:
        yield ranks


def run_two(ranks: TrainerRanks, output: Path, model_folder: Path, model: dict[str, Any], rl: dict[str, Any]) -> None:
    """Three stored steps, with a checkpoint after the first."""
    rl_spec = make_rl_spec(mini_batch_size=6, policy_loss="gspo", beta=0.1, rollout_store_steps=1, **rl)
    resources = {"trainer": {"num_ranks": 2}}
    body = {"name": "toy", "model": {"path": str(model_folder), "max_model_len": 32} | model, "resources": resources}
    spec = ExperimentSpec.model_validate(body | {"rl": rl_spec.model_dump(mode="json")})
    ranks.load(**(make_settings(model_folder) | {"model": spec.model}))
    ranks.call("prepare_rl", rl_spec, str(output / "checkpoints" / "rl"))
    for step in range(1, 4):
        metrics = ranks.call("rl_step", step, make_samples(step), temperature=1.0)[0]
        store_rollouts(str(output), spec, step_to_store(step, metrics))
        if step == 1:
            ranks.call("save_rl", 1, policy_version=1)


@pytest.mark.parametrize(
    ("model", "rl"), [({}, {}), ({"lora": {"rank": 2}}, {"kl_reference": "adapters_off"})], ids=["weights", "adapters"]
)
def test_two_processes_repeat_two_ranks_to_the_bit_and_one_up_to_rounding(
    two: TrainerRanks, model_folder: Path, tmp_path: Path, model: dict[str, Any], rl: dict[str, Any]
) -> None:
    run_two(two, tmp_path, model_folder, model, rl)
    found = replay(str(tmp_path), 3)
    assert [metric.again for metric in found] == [metric.logged for metric in found]
    assert [metric.name for metric in replay(str(tmp_path), 3, num_ranks=1) if not metric.agrees] == []


def test_failures_of_ranks_come_through(model_folder: Path, tmp_path: Path) -> None:
    ranks = RankProcesses.load(make_settings(model_folder), 2)
    with pytest.raises(DamagedCheckpoint, match="no manifest"):
        ranks.take_weights(str(tmp_path), 1)
    ranks._processes[1].kill()
    with pytest.raises(RankLost, match="rank 1 ended with exit code -9"):
        ranks.prepare_rl(make_rl_spec(), str(tmp_path / "rl"))
    ranks.close()


class Stand:
    """Two ranks, of which the first complains of the second's connection before the second is seen to be dead."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes, theirs = zip(*(context.Pipe() for _ in range(2)), strict=True)
        theirs[0].send(RuntimeError("Connection reset by peer"))
        self._processes = [context.Process(target=time.sleep, args=(s,), daemon=True) for s in (60.0, 0.2)]
        for process in self._processes:
            process.start()


def test_a_rank_that_misses_another_one_is_not_taken_for_the_cause() -> None:
    ranks = RankProcesses.__new__(RankProcesses)
    ranks.__dict__ |= Stand().__dict__
    with pytest.raises(RankLost, match="rank 1 ended with exit code 0"):
        ranks._answer(0)
    ranks.close()
