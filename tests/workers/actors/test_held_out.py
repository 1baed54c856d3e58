"""The trainer measured on held-out samples: when, with what result, and without a trace in the training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.data import SupervisedData
from service.contract.objectives import SedObjective
from service.contract.spec import LoraSpec
from service.contract.stages import OptimizerSpec, SftSpec
from tests.workers.actors.rank_processes import make_settings, trainer_ranks
from tests.workers.tiny_model import (
    assert_same_weights,
    make_pairs,
    make_sft_spec,
    make_trainer,
    weights_of,
    write_lines,
)
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import SftEnd, SftSlice, StepMetrics
from workers.config_error import ConfigError

SED = SedObjective(calibration_samples=5)
either_kind = pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)], ids=["weights", "adapters"])


@pytest.fixture
def held_out(tmp_path: Path) -> SupervisedData:
    """Samples that are not among the ten."""
    return SupervisedData(path=write_lines(tmp_path / "held out.jsonl", make_pairs(17)[10:]))


def run_all(trainer: Trainer, spec: SftSpec, root: Path, *, slice_steps: int = 1000) -> SftSlice:
    """All steps that are left, as one slice, after which the stage has ended."""
    trainer.prepare_sft(spec, str(root))
    slices = []
    while not slices or slices[-1].steps:
        slices.append(trainer.sft_steps(max_steps=slice_steps, max_seconds=1000.0))
    return SftSlice(
        steps=tuple(step for made in slices for step in made.steps),
        evaluations=tuple(found for made in slices for found in made.evaluations),
        token_views=tuple(view for made in slices for view in made.token_views),
    )


def steps_of(found: tuple[StepMetrics, ...]) -> list[int]:
    return [metrics.step for metrics in found]


def nlls_of(made: SftSlice) -> dict[int, float]:
    return {metrics.step: metrics.values["sft/eval/nll"] for metrics in made.evaluations}


def test_measuring_leaves_no_trace_in_the_training(
    model_folder: Path, ten_pairs: str, held_out: SupervisedData, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"objective": SED, "neftune_alpha": 5.0}
    plain, measured = make_trainer(model_folder), make_trainer(model_folder)
    expected = run_all(plain, make_sft_spec(ten_pairs, **changes), tmp_path / "plain")
    changes |= {"eval_data": held_out, "eval_steps": 1, "num_best_checkpoints": 1}
    found = run_all(measured, make_sft_spec(ten_pairs, **changes), tmp_path / "measured")
    assert len(found.evaluations) == 10 and len(found.token_views) == 70
    assert found.steps == expected.steps
    assert_same_weights(weights_of(measured), weights_of(plain))


@either_kind
def test_weights_written_on_the_way_leave_no_trace(
    model_folder: Path, ten_pairs: str, tmp_path: Path, lora: LoraSpec | None
) -> None:
    plain, sampled = (make_trainer(model_folder, lora=lora) for _ in range(2))
    spec = make_sft_spec(ten_pairs)
    expected = run_all(plain, spec, tmp_path / "plain")
    sampled.prepare_sft(spec, str(tmp_path / "sampled"))
    first = sampled.sft_steps(max_steps=4, max_seconds=1000.0)
    sampled.write_weights(str(tmp_path / "policy.safetensors"))
    rest = sampled.sft_steps(max_steps=1000, max_seconds=1000.0)
    assert first.steps + rest.steps == expected.steps
    assert_same_weights(weights_of(sampled), weights_of(plain))


@pytest.mark.parametrize("slice_steps", [1, 2, 1000])
def test_measured_before_the_first_step_each_eval_steps_and_at_the_end(
    model_folder: Path, ten_pairs: str, held_out: SupervisedData, tmp_path: Path, slice_steps: int
) -> None:
    spec = make_sft_spec(ten_pairs, eval_data=held_out, eval_steps=4, num_token_view_samples=2)
    found = run_all(make_trainer(model_folder), spec, tmp_path / "sft", slice_steps=slice_steps)
    assert steps_of(found.evaluations) == [0, 4, 8, 9]
    assert [(view.step, view.sample_index) for view in found.token_views] == [
        (step, index) for step in (0, 4, 8, 9) for index in (0, 1)
    ]


def test_training_lowers_the_held_out_nll_of_what_it_trained(
    model_folder: Path, ten_pairs: str, tmp_path: Path
) -> None:
    spec = make_sft_spec(ten_pairs, num_epochs=10, eval_data=SupervisedData(path=ten_pairs))
    nlls = nlls_of(run_all(make_trainer(model_folder), spec, tmp_path / "sft"))
    assert nlls[30] < 0.7 * nlls[0]


def test_without_held_out_samples_nothing_is_measured(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    found = run_all(make_trainer(model_folder), make_sft_spec(ten_pairs), tmp_path / "sft")
    assert (found.evaluations, found.token_views) == ((), ())


# Measured at 0, 2, 4, 6, 8, 9; checkpoints follow 3, 6, 9.
@pytest.mark.parametrize("killed_after", [1, 3, 5, 6, 8, 9])
def test_a_resumed_run_reports_what_the_uninterrupted_one_does(
    model_folder: Path, ten_pairs: str, held_out: SupervisedData, tmp_path: Path, killed_after: int
) -> None:
    spec = make_sft_spec(ten_pairs, eval_data=held_out, eval_steps=2, save_steps=3)
    whole = run_all(make_trainer(model_folder), spec, tmp_path / "whole")
    killed = make_trainer(model_folder)
    killed.prepare_sft(spec, str(tmp_path / "killed"))
    # The first slice was reported; the second is lost with its driver.
    reported = killed.sft_steps(max_steps=1, max_seconds=1000.0)
    if killed_after > 1:
        killed.sft_steps(max_steps=killed_after - 1, max_seconds=1000.0)

    resumed = make_trainer(model_folder)
    plan = resumed.prepare_sft(spec, str(tmp_path / "killed"))
    rest = run_all(resumed, spec, tmp_path / "killed")

    again = (*filter(is_evaluation, plan.carried_metrics), *rest.evaluations)
    assert len(again) == len(set(steps_of(again))), "a point is reported once in an attempt"
    assert {found.step: found for found in (*reported.evaluations, *again)} == by_step(whole.evaluations)
    views = {(view.step, view.sample_index): view for view in rest.token_views}
    assert views.items() <= {(view.step, view.sample_index): view for view in whole.token_views}.items()
    if plan.first_step - 1 in (6, 9):
        assert (plan.first_step - 1, 0) in views, "views of the checkpoint's step are taken again"


def by_step(found: tuple[StepMetrics, ...]) -> dict[int, StepMetrics]:
    return {metrics.step: metrics for metrics in found}


def is_evaluation(found: StepMetrics) -> bool:
    return "sft/eval/nll" in found.values


def checkpoints_in(root: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in root.iterdir())


def make_overfitting_spec(data: str, held_out: SupervisedData, **changes: Any) -> SftSpec:
    """A rate under which the held-out samples soon suffer."""
    settings: dict[str, Any] = {
        "optimizer": OptimizerSpec(learning_rate=3e-2),
        "num_epochs": 8,
        "eval_data": held_out,
        "save_steps": 2,
        "num_best_checkpoints": 2,
    }
    return make_sft_spec(data, **(settings | changes))


def test_the_best_checkpoints_are_kept_beside_the_newest(
    model_folder: Path, ten_pairs: str, held_out: SupervisedData, tmp_path: Path
) -> None:
    trainer = make_trainer(model_folder)
    spec = make_overfitting_spec(ten_pairs, held_out)
    nlls = nlls_of(run_all(trainer, spec, tmp_path / "sft"))
    end = trainer.end_sft()
    del nlls[0]
    assert list(nlls) == [*range(2, 25, 2)], "each checkpoint is measured"
    best = sorted(nlls, key=lambda step: (nlls[step], step))[:2]
    assert max(best) < 20, "the run must overfit for this test to say something"
    assert [(ranked.step, ranked.value) for ranked in end.best_checkpoints] == [(step, nlls[step]) for step in best]
    assert checkpoints_in(tmp_path / "sft") == sorted([*best, 22, 24])
    assert end.exported_step == 24
    manifest = json.loads((tmp_path / "sft" / "step-00000024" / "manifest.json").read_text())
    assert manifest["body"]["facts"]["best_checkpoints"][0] == [best[0], nlls[best[0]]]


@either_kind
def test_the_stage_may_end_with_the_best_checkpoint(
    model_folder: Path, ten_pairs: str, held_out: SupervisedData, tmp_path: Path, lora: LoraSpec | None
) -> None:
    spec = make_overfitting_spec(ten_pairs, held_out, export="best")
    trainer, same, resumed = (make_trainer(model_folder, lora=lora) for _ in range(3))
    run_all(trainer, spec, tmp_path / "sft")
    end = trainer.end_sft()
    same.prepare_sft(spec, str(tmp_path / "again"))
    same.sft_steps(max_steps=end.exported_step, max_seconds=1000.0)
    assert end.exported_step == end.best_checkpoints[0].step < 20
    assert_same_weights(weights_of(trainer), weights_of(same))

    resumed.prepare_sft(spec, str(tmp_path / "sft"))
    assert resumed.end_sft() == end
    assert_same_weights(weights_of(resumed), weights_of(same))


def end_with_damaged(model_folder: Path, spec: SftSpec, root: Path, num_damaged: int) -> tuple[SftEnd, SftEnd]:
    """How the stage ends before and after the best checkpoints were damaged."""
    trainer = make_trainer(model_folder)
    run_all(trainer, spec, root)
    whole = trainer.end_sft()
    for ranked in whole.best_checkpoints[:num_damaged]:
        (root / f"step-{ranked.step:08d}" / "manifest.json").unlink()
    resumed = make_trainer(model_folder)
    resumed.prepare_sft(spec, str(root))
    return whole, resumed.end_sft()


def test_a_damaged_best_checkpoint_gives_way_to_the_next(
    model_folder: Path, ten_pairs: str, held_out: SupervisedData, tmp_path: Path
) -> None:
    spec = make_overfitting_spec(ten_pairs, held_out, export="best")
    whole, again = end_with_damaged(model_folder, spec, tmp_path / "sft", 1)
    first, second = whole.best_checkpoints
    assert again.exported_step == second.step
    assert [skipped.name for skipped in again.skipped_best_checkpoints] == [f"step-{first.step:08d}"]


def test_without_a_whole_best_checkpoint_the_stage_cannot_end(
    model_folder: Path, ten_pairs: str, held_out: SupervisedData, tmp_path: Path
) -> None:
    spec = make_overfitting_spec(ten_pairs, held_out, export="best")
    with pytest.raises(ConfigError, match="none of the 2 best checkpoints"):
        end_with_damaged(model_folder, spec, tmp_path / "sft", 2)


@pytest.mark.slow
def test_two_ranks_end_with_the_best_checkpoint_too(
    model_folder: Path, ten_pairs: str, held_out: SupervisedData, tmp_path: Path
) -> None:
    # Adam divides by the gradient's size and would blow rounding up where that is about 0.
    optimizer = OptimizerSpec(learning_rate=1.0, adam_epsilon=1.0)
    spec = make_overfitting_spec(ten_pairs, held_out, export="best", optimizer=optimizer)
    one = make_trainer(model_folder)
    run_all(one, spec, tmp_path / "one")
    expected = one.end_sft()
    with trainer_ranks(2) as two:
        two.load(**make_settings(model_folder))
        two.call("prepare_sft", spec, str(tmp_path / "two"))
        measured, same = two.call("sft_steps", max_steps=1000, max_seconds=1000.0)
        assert measured == same and len(measured.token_views) == 2 * 7
        end, same_end = two.call("end_sft")
        assert end == same_end
        weights = two.call("weights")[0]
    assert [ranked.step for ranked in end.best_checkpoints] == [ranked.step for ranked in expected.best_checkpoints]
    assert end.exported_step == expected.exported_step < 24
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-5)
