"""The trainer's ranks as Ray actors, called by the driver."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from service.contract.resources import ResourcesSpec, TrainerResources
from service.contract.spec import ExperimentSpec, ModelSpec
from service.contract.stages import SftSpec
from tests.workers.ray_head import RAY_MARKS, connected_ray
from tests.workers.tiny_model import (
    make_model_folder,
    make_pairs,
    make_rl_spec,
    make_samples,
    make_sft_spec,
    make_trainer,
    write_lines,
)
from workers.placement import ActorDied, Placement, place
from workers.stages.remote_actors import RemoteTrainer

pytestmark = RAY_MARKS

RESOURCES = ResourcesSpec(trainer=TrainerResources(num_ranks=2))


class KnownActors:
    """A placement that knows which actors it has started."""

    def __init__(self, placement: Placement) -> None:
        self.hosts = placement.hosts
        self.trainer_stands = placement.trainer_stands
        self.actors: list[Any] = []
        self._placement = placement

    def spawn(self, *args: Any, **kwargs: Any) -> Any:
        self.actors.append(self._placement.spawn(*args, **kwargs))
        return self.actors[-1]

    def process_id(self, rank: int) -> int:
        pid: int = ray.get(self.actors[rank].__ray_call__.remote(lambda _: os.getpid()), timeout=60.0)
        return pid


class Alarm:
    """A check that kills a process at a given time, once."""

    def __init__(self) -> None:
        self.victim: int | None = None
        self.at = 0.0

    def __call__(self) -> None:
        if self.victim is not None and time.monotonic() >= self.at:
            os.kill(self.victim, signal.SIGKILL)
            self.victim = None


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected_ray(num_cpus=3):
        yield


@pytest.fixture
def placement(cluster: None) -> Iterator[Placement]:
    placement = place(RESOURCES, deadline_s=60.0, check=go_on)
    yield placement
    placement.remove()


@pytest.fixture
def sft(tmp_path: Path) -> SftSpec:
    return make_sft_spec(write_lines(tmp_path / "sft.jsonl", make_pairs(10)))


@pytest.fixture
def alarm() -> Alarm:
    return Alarm()


@pytest.fixture
def known(placement: Placement) -> KnownActors:
    return KnownActors(placement)


@pytest.fixture
def trainer(known: KnownActors, sft: SftSpec, tmp_path: Path, alarm: Alarm) -> Iterator[RemoteTrainer]:
    model = ModelSpec(path=str(make_model_folder(tmp_path / "model")), max_model_len=32)
    spec = ExperimentSpec(name="gang", model=model, sft=sft, resources=RESOURCES)
    trainer = RemoteTrainer(known, spec, alarm)  # type: ignore[arg-type]
    trainer.begin_load()
    trainer.wait_loaded()
    yield trainer
    trainer.release()


def go_on() -> None:
    """Never raises."""


def test_a_gang_of_two_runs_both_stages_as_one_rank_does(trainer: RemoteTrainer, sft: SftSpec, tmp_path: Path) -> None:
    alone = make_trainer(tmp_path / "model")
    assert trainer.prepare_sft(sft, str(tmp_path / "sft")) == alone.prepare_sft(sft, str(tmp_path / "one"))
    found = trainer.sft_steps(max_steps=100, max_seconds=100.0).steps
    expected = alone.sft_steps(max_steps=100, max_seconds=100.0).steps
    for one, other in zip(expected, found, strict=True):
        assert other.values["sft/nll"] == pytest.approx(one.values["sft/nll"], abs=1e-4)
    rl = make_rl_spec()
    trainer.prepare_rl(rl, str(tmp_path / "rl"))
    assert trainer.rl_step(1, make_samples(1), temperature=1.0)["actor/grad_norm"] > 0.0
    location = trainer.save_rl(1, policy_version=2)
    assert sorted(path.name for path in Path(location).iterdir()) == [
        "manifest.json",
        "tensors-00000.bin",
        "tensors-00001.bin",
        "tensors.json",
    ]
    assert make_trainer(tmp_path / "model").prepare_rl(rl, str(tmp_path / "rl")).policy_version == 2
    assert Path(trainer.export(str(tmp_path / "exported")), "model.safetensors").is_file()


def test_slices_end_with_the_same_step_on_all_ranks(trainer: RemoteTrainer, sft: SftSpec, tmp_path: Path) -> None:
    trainer.prepare_sft(sft, str(tmp_path / "sft"))
    steps: list[int] = []
    while done := trainer.sft_steps(max_steps=100, max_seconds=0.0).steps:
        steps += [metrics.step for metrics in done]
    assert steps == list(range(1, 10))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_wait_at_once(
    trainer: RemoteTrainer, known: KnownActors, alarm: Alarm, sft: SftSpec, tmp_path: Path, rank: int
) -> None:
    endless = sft.model_copy(update={"num_epochs": 100_000, "save_steps": 1_000_000})
    trainer.prepare_sft(endless, str(tmp_path / "sft"))
    alarm.victim, alarm.at = known.process_id(rank), time.monotonic() + 1.0
    with pytest.raises(ActorDied) as caught:
        trainer.sft_steps(max_steps=1_000_000, max_seconds=600.0)
    assert caught.value.rank == rank
    assert time.monotonic() - alarm.at < 15.0


def test_a_gang_that_lost_a_rank_starts_again_in_its_bundles_and_goes_on_from_its_checkpoint(
    trainer: RemoteTrainer, known: KnownActors, sft: SftSpec, tmp_path: Path
) -> None:
    root = str(tmp_path / "sft")
    often_saved = sft.model_copy(update={"save_steps": 3})
    trainer.prepare_sft(often_saved, root)
    saved = trainer.sft_steps(max_steps=3, max_seconds=60.0).steps[-1].step
    os.kill(known.process_id(1), signal.SIGKILL)
    with pytest.raises(ActorDied):
        trainer.sft_steps(max_steps=1, max_seconds=60.0)
    assert trainer.restart()
    trainer.wait_loaded()
    plan = trainer.prepare_sft(often_saved, root)
    assert plan.first_step == saved + 1 == 4
    assert trainer.sft_steps(max_steps=1, max_seconds=60.0).steps[0].step == saved + 1
