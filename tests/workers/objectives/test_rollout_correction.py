import math

import pytest
import torch

from service.contract.rl import RolloutCorrection
from workers.objectives.rollout_correction import correction_metrics, correction_weights

ROLLOUT = torch.tensor([-1.0, -1.0, -1.0])
TRAINER = ROLLOUT + torch.tensor([4.0, 0.5, 0.25]).log()
LENGTHS = [2, 1]


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        (RolloutCorrection(mode="token_truncate", max=3.0), [3.0, 0.5, 0.25]),
        (RolloutCorrection(mode="token_mask", max=3.0), [0.0, 0.5, 0.25]),
        (RolloutCorrection(mode="token_mask", max=3.0, min=0.3), [0.0, 0.5, 0.0]),
        (RolloutCorrection(mode="sequence_truncate", max=1.5), [1.5, 1.5, 0.25]),
        (RolloutCorrection(mode="sequence_mask", max=1.5), [0.0, 0.0, 0.25]),
        (RolloutCorrection(mode="sequence_mask", max=1.5, aggregate="mean"), [math.sqrt(2), math.sqrt(2), 0.25]),
    ],
)
def test_weights_by_hand(correction: RolloutCorrection, expected: list[float]) -> None:
    weights_N = correction_weights(correction, TRAINER, ROLLOUT, LENGTHS)
    assert weights_N is not None
    assert weights_N.tolist() == pytest.approx(expected)


def test_no_correction_has_no_weights() -> None:
    assert correction_weights(RolloutCorrection(), TRAINER, ROLLOUT, LENGTHS) is None


def test_a_gap_beyond_float64_stays_finite() -> None:
    far = correction_weights(RolloutCorrection(mode="token_truncate"), ROLLOUT + 1e4, ROLLOUT, LENGTHS)
    assert far is not None
    assert far.tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("weights", "share", "masked"),
    [([1.0, 1.0], 1.0, 0.0), ([2.0, 0.0], 0.5, 0.5), ([0.0, 0.0], 0.0, 1.0), ([3.0, 1.0], 0.8, 0.0)],
)
def test_metrics_say_how_much_is_left(weights: list[float], share: float, masked: float) -> None:
    metrics = correction_metrics(torch.tensor(weights))
    assert metrics["sampling/ess"] == pytest.approx(share)
    assert metrics["sampling/masked_fraction"] == masked
    assert metrics["sampling/is_ratio/max"] == max(weights)
