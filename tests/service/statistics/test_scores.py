from itertools import combinations

import numpy as np
import pytest

from service.statistics.scores import RunScores, arm_scores, pass_at_k_values


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample() -> None:
    for n, c, k in [(4, 0, 2), (4, 1, 2), (5, 3, 2), (6, 2, 3), (4, 4, 1), (4, 4, 4)]:
        subsets = list(combinations([True] * c + [False] * (n - c), k))
        expected = sum(map(any, subsets)) / len(subsets)
        assert pass_at_k_values([c], n, k)[0] == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_more_samples_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@5 cannot be computed from 4"):
        pass_at_k_values([1], 4, 5)
    with pytest.raises(ValueError, match="between 0 and the 4 samples"):
        pass_at_k_values([5], 4, 1)


def test_runs_of_one_sft_seed_are_one_unit() -> None:
    arm = arm_scores([_run(1, 1, 0.0), _run(1, 2, 1.0), _run(2, 1, 0.5)])
    assert arm.units == (1, 2)
    assert arm.values_UP.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_rl_seeds_are_units_where_all_share_their_sft() -> None:
    assert arm_scores([_run(None, 7, 0.0), _run(None, 8, 1.0)]).units == (7, 8)
    assert arm_scores([_run(3, 7, 0.0), _run(3, 8, 1.0)]).units == (7, 8)


def test_runs_on_other_prompts_or_with_holes_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        arm_scores([_run(1, 1, 0.0), RunScores(sft_seed=2, rl_seed=1, values_P=np.zeros(3))])
    with pytest.raises(ValueError, match="finite"):
        arm_scores([_run(1, 1, float("nan"))])
    with pytest.raises(ValueError, match="without a finished run"):
        arm_scores([])


def _run(sft_seed: int | None, rl_seed: int, value: float) -> RunScores:
    return RunScores(sft_seed=sft_seed, rl_seed=rl_seed, values_P=np.full(2, value))
