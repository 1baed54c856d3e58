"""A killed run, taken up again, ends as if nobody had killed it: the same metrics at every step, the same weights."""

import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from service.contract.data import SupervisedData
from service.contract.objectives import SedObjective
from service.contract.stages import SftSpec
from tests.workers.actors.killed_runs import SLICE_STEPS, SftRunUnderTest, kill_after, kill_when
from tests.workers.tiny_model import (
    assert_same_weights,
    make_pairs,
    make_sft_spec,
    make_trainer,
    weights_of,
    write_lines,
)
from workers.actors.trainer_results import StepMetrics

pytestmark = pytest.mark.timeout(900)

NUM_KILLS = 20
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> SftSpec:
    """Epochs of three steps, 60 steps in all; every second step writes a checkpoint, of which the best is kept."""
    folder = tmp_path_factory.mktemp("data")
    held_out = SupervisedData(path=write_lines(folder / "held out.jsonl", make_pairs(13)[10:]))
    return make_sft_spec(
        write_lines(folder / "sft.jsonl", make_pairs(10)),
        objective=SedObjective(calibration_samples=5),
        num_epochs=20,
        save_steps=2,
        eval_data=held_out,
        eval_steps=5,
        num_best_checkpoints=1,
        export="best",
    )


@pytest.fixture(scope="module")
def start_run(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, spec: SftSpec
) -> Callable[[], SftRunUnderTest]:
    """Makes a run of its own at each call."""
    return lambda: SftRunUnderTest(folder=tmp_path_factory.mktemp("run"), model_folder=model_folder, spec=spec)


@pytest.fixture(scope="module")
def undisturbed(start_run: Callable[[], SftRunUnderTest]) -> SftRunUnderTest:
    run = start_run()
    run.finish()
    assert sorted(run.reports()) == list(range(61))
    return run


def assert_same_end(run: SftRunUnderTest, undisturbed: SftRunUnderTest) -> None:
    """Bit for bit: every metric of every step, and the file of weights."""
    assert run.reports() == undisturbed.reports()
    assert run.weights.read_bytes() == undisturbed.weights.read_bytes()


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(
    start_run: Callable[[], SftRunUnderTest], undisturbed: SftRunUnderTest
) -> None:
    began = time.monotonic()
    start_run().finish()
    duration_s = time.monotonic() - began
    draw = random.Random(7)
    num_kills = 0
    while num_kills < NUM_KILLS:
        run = start_run()
        # An attempt lives for half a run at most, so that a run takes several kills on its way.
        while kill_after(run.start(), draw.uniform(0.0, duration_s / 2)) and num_kills < NUM_KILLS:
            num_kills += 1
        run.finish()
        assert_same_end(run, undisturbed)


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_changes_nothing(
    start_run: Callable[[], SftRunUnderTest], undisturbed: SftRunUnderTest
) -> None:
    run = start_run()

    def unfinished() -> set[str]:
        return {path.name for path in run.checkpoints.glob("*") if not path.name.startswith("step-")}

    seen = 0
    for _ in range(5):
        before = unfinished()
        # What a killed writer leaves stays until the next one of the same step.
        assert kill_when(run.start(), lambda before=before: bool(unfinished() - before))
        seen += bool(unfinished())
    assert seen, "no kill came while a checkpoint was being written"
    run.finish()
    assert_same_end(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [2, 3], ids=["with a checkpoint", "without a checkpoint"])
def test_a_kill_at_the_end_of_an_epoch_changes_nothing(
    start_run: Callable[[], SftRunUnderTest], undisturbed: SftRunUnderTest, epochs: int
) -> None:
    run = start_run()
    last_step = epochs * STEPS_PER_EPOCH
    assert last_step % SLICE_STEPS == 0
    process = run.start(die_after_step=last_step)
    process.join(300)
    assert max(run.reports()) == last_step - SLICE_STEPS, "the epoch's last steps were not reported"
    run.finish()
    assert_same_end(run, undisturbed)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_the_end_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("file", ["largest", "manifest.json"])
@pytest.mark.parametrize("damage", [flip_a_byte, cut_the_end_off, Path.unlink])
def test_a_damaged_checkpoint_is_named_and_the_one_before_gives_the_same_end(
    model_folder: Path, spec: SftSpec, tmp_path: Path, damage: Callable[[Path], None], file: str
) -> None:
    short = spec.model_copy(update={"num_epochs": 2})
    whole = make_trainer(model_folder)
    whole.prepare_sft(short, str(tmp_path / "whole"))
    expected = whole.sft_steps(max_steps=1000, max_seconds=60.0)
    broken_off = make_trainer(model_folder)
    broken_off.prepare_sft(short, str(tmp_path / "broken off"))
    broken_off.sft_steps(max_steps=5, max_seconds=60.0)
    newest = max((tmp_path / "broken off").iterdir())
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    damage(largest if file == "largest" else newest / file)

    resumed = make_trainer(model_folder)
    plan = resumed.prepare_sft(short, str(tmp_path / "broken off"))
    again = resumed.sft_steps(max_steps=1000, max_seconds=60.0)

    assert [skipped.name for skipped in plan.skipped_checkpoints] == [newest.name]
    told = (*plan.carried_metrics, *again.steps, *again.evaluations)
    assert points_of(told) == points_of((*expected.steps, *expected.evaluations))
    assert_same_weights(weights_of(resumed), weights_of(whole))


def points_of(told: Iterable[StepMetrics]) -> dict[tuple[int, str], float]:
    """Values by step and name."""
    return {(metrics.step, name): value for metrics in told for name, value in metrics.values.items()}
