import numpy as np
import pytest
from scipy.stats import t

from service.statistics.two_way import bootstrap_means, mean_interval, spread_of_mean
from tests.service.statistics.studies import World


@pytest.mark.parametrize("num_units", [4, 8])
def test_intervals_of_a_difference_cover_at_their_rate(num_units: int) -> None:
    rng = np.random.default_rng(5)
    world = World(num_units=num_units, difference=0.02, arm_prompt_sd=0.1)
    covered = 0
    for number in range(600):
        arm, baseline = world.draw(rng)
        found = mean_interval(arm.values_UP - baseline.values_UP, seed=number, num_replicates=800)
        assert found.low is not None and found.high is not None
        # What is clipped at 0 and 1 takes a little from the difference.
        covered += found.low <= 0.0195 <= found.high
    assert 0.925 <= covered / 600 <= 0.98


def test_interval_over_these_prompts_only_covers_their_own_truth() -> None:
    rng = np.random.default_rng(6)
    covered = 0
    for number in range(600):
        prompts_P = rng.normal(0.5, 0.3, 20)
        values_UP = prompts_P[None, :] + rng.normal(0.0, 0.02, (6, 1)) + rng.normal(0.0, 0.05, (6, 20))
        found = mean_interval(values_UP, over_prompts=False, seed=number, num_replicates=800)
        assert found.low is not None and found.high is not None
        covered += found.low <= prompts_P.mean() <= found.high
    assert 0.925 <= covered / 600 <= 0.975


def test_variance_of_the_mean_is_found_by_source() -> None:
    rng = np.random.default_rng(7)
    found = [
        spread_of_mean(
            rng.normal(0, 0.02, (6, 1)) + rng.normal(0, 0.1, (1, 40)) + rng.normal(0, 0.3, (6, 40)),
        )
        for _ in range(800)
    ]
    truth = 0.02**2 / 6 + 0.1**2 / 40 + 0.3**2 / 240
    assert np.mean([one.units for one in found]) == pytest.approx(0.02**2 / 6 + 0.3**2 / 240, rel=0.1)
    # The prompts' part is cut off at 0, so that the sum errs a little to the safe side.
    assert 0.95 * truth <= np.mean([one.standard_error**2 for one in found]) <= 1.3 * truth


def test_replicates_have_the_variance_that_the_table_says() -> None:
    rng = np.random.default_rng(8)
    values_UP = rng.normal(0, 0.05, (10, 1)) + rng.normal(0, 0.2, (1, 50)) + rng.normal(0, 0.1, (10, 50))
    spread = spread_of_mean(values_UP)
    replicates = bootstrap_means(values_UP, rng, num_replicates=20_000)
    assert replicates.mean() == pytest.approx(values_UP.mean(), abs=1e-3)
    # Resampling U units has (U - 1) / U of their variance, P prompts (P - 1) / P of theirs.
    assert replicates.var() == pytest.approx(spread.units * 0.9 + spread.prompts * 0.98, rel=0.05)


def test_with_one_prompt_the_interval_is_about_students() -> None:
    values_UP = np.random.default_rng(9).normal(0, 1, (12, 1))
    found = mean_interval(values_UP, num_replicates=40_000)
    reach = t.ppf(0.975, 11) * values_UP.std(ddof=1) / np.sqrt(12)
    assert found.half_width == pytest.approx(reach, rel=0.1)


def test_one_unit_has_no_interval() -> None:
    found = mean_interval(np.array([[0.0, 1.0]]))
    assert (found.mean, found.low, found.high, found.half_width) == (0.5, None, None, None)


def test_the_same_table_gives_the_same_interval() -> None:
    values_UP = np.random.default_rng(10).random((5, 30))
    assert mean_interval(values_UP) == mean_interval(values_UP)
