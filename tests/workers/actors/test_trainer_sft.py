import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.metric_names import describe_metric
from service.contract.objectives import SedObjective
from service.contract.stages import OptimizerSpec
from tests.workers.tiny_model import (
    assert_same_weights,
    make_pairs,
    make_sft_spec,
    make_trainer,
    weights_of,
    write_lines,
)
from workers.actors.rank_group import RankGroup
from workers.actors.tensor_storage import INDEX, load_tensors
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import NonFinite, StepMetrics
from workers.checkpoints import load_latest, verify_checkpoint
from workers.config_error import ConfigError

SED = SedObjective(calibration_samples=5)


def run_all(trainer: Trainer) -> list[StepMetrics]:
    return list(trainer.sft_steps(max_steps=1000, max_seconds=1000.0).steps)


# Steps 3 and 6 end an epoch of three steps; 4 lies within one.
@pytest.mark.parametrize("save_steps", [3, 4])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    model_folder: Path, ten_pairs: str, tmp_path: Path, save_steps: int
) -> None:
    spec = make_sft_spec(ten_pairs, objective=SED, save_steps=save_steps)
    whole = make_trainer(model_folder)
    whole.prepare_sft(spec, str(tmp_path / "whole"))
    expected = run_all(whole)

    killed = make_trainer(model_folder)
    plan = killed.prepare_sft(spec, str(tmp_path / "killed"))
    killed.sft_steps(max_steps=save_steps + 1, max_seconds=1000.0)
    resumed = make_trainer(model_folder)
    again = resumed.prepare_sft(spec, str(tmp_path / "killed"))

    assert again.first_step == save_steps + 1
    assert (again.tau, again.tau_histogram, again.tau_num_tokens) == (
        plan.tau,
        plan.tau_histogram,
        plan.tau_num_tokens,
    )
    assert run_all(resumed) == expected[save_steps:]
    assert_same_weights(weights_of(resumed), weights_of(whole))


@pytest.mark.parametrize("stopped_after", [1, 2, 5])
def test_a_run_that_was_stopped_with_a_checkpoint_goes_on_as_if_it_had_not_been(
    model_folder: Path, ten_pairs: str, tmp_path: Path, stopped_after: int
) -> None:
    spec = make_sft_spec(ten_pairs, objective=SED, save_steps=4)
    whole = make_trainer(model_folder)
    whole.prepare_sft(spec, str(tmp_path / "whole"))
    expected = run_all(whole)

    stopped = make_trainer(model_folder)
    stopped.prepare_sft(spec, str(tmp_path / "stopped"))
    before = stopped.sft_steps(max_steps=stopped_after, max_seconds=1000.0).steps
    verify_checkpoint(stopped.save_sft())
    resumed = make_trainer(model_folder)
    assert resumed.prepare_sft(spec, str(tmp_path / "stopped")).first_step == stopped_after + 1

    assert [*before, *run_all(resumed)] == expected
    assert_same_weights(weights_of(resumed), weights_of(whole))


def test_a_finished_stage_resumes_with_nothing_left(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    spec = make_sft_spec(ten_pairs)
    first = make_trainer(model_folder)
    first.prepare_sft(spec, str(tmp_path / "sft"))
    run_all(first)
    second = make_trainer(model_folder)
    plan = second.prepare_sft(spec, str(tmp_path / "sft"))
    assert (plan.first_step, plan.num_steps) == (10, 9)
    assert run_all(second) == []
    assert_same_weights(weights_of(second), weights_of(first))


def test_checkpoint_of_another_specification_is_refused(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    trainer.prepare_sft(make_sft_spec(ten_pairs), str(tmp_path / "sft"))
    run_all(trainer)
    with pytest.raises(ConfigError, match="another specification"):
        trainer.prepare_sft(make_sft_spec(ten_pairs, batch_size=5), str(tmp_path / "sft"))


@pytest.mark.parametrize("max_tokens", [1, 13, 40])
def test_micro_batch_budget_changes_no_metric_and_no_weight(
    model_folder: Path, ten_pairs: str, tmp_path: Path, max_tokens: int
) -> None:
    runs = []
    for budget in (8192, max_tokens):
        # SGD-like settings: Adam divides by the gradient's size and would blow rounding up where it is about 0.
        optimizer = OptimizerSpec(learning_rate=1e-2, adam_epsilon=1.0)
        spec = make_sft_spec(ten_pairs, objective=SED, max_tokens_per_microbatch=budget, optimizer=optimizer)
        trainer = make_trainer(model_folder)
        trainer.prepare_sft(spec, str(tmp_path / str(budget)))
        runs.append((run_all(trainer), weights_of(trainer)))
    for one, other in zip(runs[0][0], runs[1][0], strict=True):
        assert other.values == pytest.approx(one.values, abs=1e-6, rel=1e-5)
    for name, weight in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][name], weight, rtol=0, atol=1e-6)


def test_sed_with_lambda_0_trains_exactly_like_cross_entropy(
    model_folder: Path, ten_pairs: str, tmp_path: Path
) -> None:
    weights = []
    for index, changes in enumerate([{}, {"objective": SedObjective.model_validate({"lambda": 0.0})}]):
        trainer = make_trainer(model_folder)
        trainer.prepare_sft(make_sft_spec(ten_pairs, **changes), str(tmp_path / str(index)))
        run_all(trainer)
        weights.append(weights_of(trainer))
    assert_same_weights(*weights)


def test_tau_is_calibrated_on_label_tokens_of_the_first_samples(
    model_folder: Path, ten_pairs: str, tmp_path: Path
) -> None:
    plan = make_trainer(model_folder).prepare_sft(make_sft_spec(ten_pairs, objective=SED), str(tmp_path / "sft"))
    num_tokens = sum(len(pair["completion"].split()) + 1 for pair in make_pairs(5))
    assert plan.tau is not None and 0.0 < plan.tau < 1.0
    assert plan.tau_histogram is not None
    assert plan.tau_num_tokens == sum(plan.tau_histogram.counts) == num_tokens


@pytest.mark.parametrize(("objective", "tau"), [(SedObjective(tau=0.25), 0.25), (SedObjective(mask="none"), None)])
def test_a_given_tau_and_no_mask_need_no_calibration(
    model_folder: Path, ten_pairs: str, tmp_path: Path, objective: SedObjective, tau: float | None
) -> None:
    trainer = make_trainer(model_folder)
    plan = trainer.prepare_sft(make_sft_spec(ten_pairs, objective=objective), str(tmp_path / "sft"))
    assert (plan.tau, plan.tau_histogram, plan.tau_num_tokens) == (tau, None, 0)
    assert len(run_all(trainer)) == 9


@pytest.mark.parametrize("changes", [{}, {"objective": SED}])
def test_every_metric_is_in_the_contract(
    model_folder: Path, ten_pairs: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    trainer = make_trainer(model_folder)
    trainer.prepare_sft(make_sft_spec(ten_pairs, **changes), str(tmp_path / "sft"))
    (metrics,) = trainer.sft_steps(max_steps=1, max_seconds=1000.0).steps
    assert [name for name in metrics.values if describe_metric(name) is None] == []
    assert metrics.step == 1
    assert metrics.values["sft/epoch"] == pytest.approx(1 / 3)


def test_steps_stop_at_the_time_limit_after_whole_steps(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    trainer.prepare_sft(make_sft_spec(ten_pairs), str(tmp_path / "sft"))
    assert [metrics.step for metrics in trainer.sft_steps(max_steps=1000, max_seconds=0.0).steps] == [1]
    assert [metrics.step for metrics in trainer.sft_steps(max_steps=2, max_seconds=1000.0).steps] == [2, 3]


def test_training_lowers_the_loss(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    trainer.prepare_sft(make_sft_spec(ten_pairs, num_epochs=20), str(tmp_path / "sft"))
    metrics = run_all(trainer)
    assert metrics[-1].values["sft/nll"] < 0.5 * metrics[0].values["sft/nll"]


def test_a_non_finite_loss_stops_the_run_before_the_weights_change(
    model_folder: Path, ten_pairs: str, tmp_path: Path
) -> None:
    trainer = make_trainer(model_folder)
    spec = make_sft_spec(ten_pairs, optimizer=OptimizerSpec(learning_rate=1e30))
    trainer.prepare_sft(spec, str(tmp_path / "sft"))
    with pytest.raises(NonFinite, match=r"sft step \d+"):
        run_all(trainer)
    assert all(bool(weight.isfinite().all()) for weight in weights_of(trainer).values())


def test_top_k_beyond_the_vocabulary_is_refused(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    spec = make_sft_spec(ten_pairs, objective=SedObjective(top_k=24))
    with pytest.raises(ConfigError, match="vocabulary of 23"):
        make_trainer(model_folder).prepare_sft(spec, str(tmp_path / "sft"))


def test_changed_data_under_a_checkpoint_is_refused(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    spec = make_sft_spec(ten_pairs)
    trainer = make_trainer(model_folder)
    trainer.prepare_sft(spec, str(tmp_path / "sft"))
    run_all(trainer)
    write_lines(Path(ten_pairs), make_pairs(11))
    with pytest.raises(ConfigError, match="data set"):
        trainer.prepare_sft(spec, str(tmp_path / "sft"))


def test_bfloat16_trains_float32_weights(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    values = []
    for dtype in ("float32", "bfloat16"):
        trainer = make_trainer(model_folder, dtype=dtype)
        # A rate whose steps would vanish in bfloat16 weights.
        spec = make_sft_spec(ten_pairs, optimizer=OptimizerSpec(learning_rate=1e-6))
        trainer.prepare_sft(spec, str(tmp_path / dtype))
        values.append(run_all(trainer)[0].values)
        trained = stored_norm(tmp_path / dtype)
        assert bool((trained != 1.0).all())
    assert values[1]["sft/nll"] == pytest.approx(values[0]["sft/nll"], rel=1e-2)
    assert values[1]["sft/nll"] != values[0]["sft/nll"]


def stored_norm(root: Path) -> torch.Tensor:
    """The last norm's weight in the newest checkpoint, which must hold it in float32."""
    checkpoint = load_latest(str(root)).checkpoint
    assert checkpoint is not None
    assert json.loads((Path(checkpoint.location) / INDEX).read_text())["model.model.norm.weight"]["dtype"] == "float32"
    weight = torch.zeros(16)
    load_tensors({"model.model.norm.weight": weight}, checkpoint, RankGroup())
    return weight


def test_plan_metrics_and_errors_can_be_pickled(model_folder: Path, ten_pairs: str, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    plan = trainer.prepare_sft(make_sft_spec(ten_pairs, objective=SED), str(tmp_path / "sft"))
    metrics = trainer.sft_steps(max_steps=1, max_seconds=1.0)
    assert pickle.loads(pickle.dumps((plan, metrics))) == (plan, metrics)
    for error in (ConfigError("a"), NonFinite("b")):
        assert pickle.loads(pickle.dumps(error)).args == error.args
