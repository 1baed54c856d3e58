import pytest
import torch

from service.contract.stages import OptimizerSpec
from workers.actors.optimization import Optimization, learning_rate_at
from workers.actors.trainer_results import NonFinite


def rates(spec: OptimizerSpec, num_steps: int) -> list[float]:
    return [learning_rate_at(spec, step, num_steps) for step in range(1, num_steps + 1)]


def test_warm_up_reaches_the_full_rate_with_its_last_step() -> None:
    spec = OptimizerSpec(learning_rate=1.0, warmup_ratio=0.35)
    assert rates(spec, 10) == [0.25, 0.5, 0.75, 1.0, *[1.0] * 6]


def test_linear_reaches_0_when_the_last_step_ends() -> None:
    spec = OptimizerSpec(learning_rate=1.0, lr_schedule="linear", warmup_ratio=0.2)
    assert rates(spec, 5) == [1.0, 1.0, 0.75, 0.5, 0.25]


def test_cosine_starts_full_and_falls() -> None:
    spec = OptimizerSpec(learning_rate=2.0, lr_schedule="cosine")
    assert rates(spec, 4) == pytest.approx([2.0, 1.7071068, 1.0, 0.2928932])


def test_a_single_step_trains_under_every_schedule() -> None:
    for schedule in ("constant", "linear", "cosine"):
        spec = OptimizerSpec.model_validate({"learning_rate": 1.0, "lr_schedule": schedule, "warmup_ratio": 0.5})
        assert rates(spec, 1) == [1.0]


def test_weight_decay_spares_vectors() -> None:
    matrix, vector = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,)))
    optimization = Optimization(
        {"matrix": matrix, "vector": vector}, OptimizerSpec(learning_rate=0.1, weight_decay=0.5), 1
    )
    matrix.grad, vector.grad = torch.zeros_like(matrix), torch.zeros_like(vector)
    optimization.apply(1, torch.tensor(0.0), "sft")
    assert matrix.tolist() == [[pytest.approx(0.95)] * 2] * 2
    assert vector.tolist() == [1.0, 1.0]


def test_gradients_are_clipped_to_the_norm_and_reported_before() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimization = Optimization(
        {"weight": parameter}, OptimizerSpec(learning_rate=0.1, max_grad_norm=1.0, adam_epsilon=1e3), 1
    )
    parameter.grad = torch.tensor([3.0, 4.0])
    assert optimization.apply(1, torch.tensor(0.0), "sft") == (0.1, 5.0)
    # With an epsilon far above the gradient, Adam's step is proportional to the clipped gradient.
    assert parameter.tolist() == pytest.approx([-0.1 * 0.6 / 1e3, -0.1 * 0.8 / 1e3], rel=1e-2)


@pytest.mark.parametrize(("loss", "gradient"), [(float("nan"), 0.0), (0.0, float("inf")), (float("inf"), 1.0)])
def test_nothing_moves_on_a_non_finite_value(loss: float, gradient: float) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimization = Optimization({"weight": parameter}, OptimizerSpec(learning_rate=0.1), 9)
    parameter.grad = torch.full((2,), gradient)
    with pytest.raises(NonFinite, match="rl step 7"):
        optimization.apply(7, torch.tensor(loss), "rl")
    assert parameter.tolist() == [1.0, 1.0]
