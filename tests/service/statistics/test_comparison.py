from itertools import product

import numpy as np
import pytest
from scipy.stats import ttest_rel

from service.statistics.comparison import compare, holm, label_p, permutation_p, sign_flip_p, smallest_p
from service.statistics.power import Wanted, further_units, smallest_difference, units_needed
from service.statistics.scores import ArmScores
from tests.service.statistics.studies import World


@pytest.mark.parametrize("num_units", [5, 7])
def test_arms_that_do_not_differ_seem_to_in_one_of_twenty_studies(num_units: int) -> None:
    rng = np.random.default_rng(11)
    world = World(num_units=num_units, num_prompts=40, pairing=0.3 if num_units > 5 else 0.0)
    p_values = []
    for _ in range(2500):
        arm, baseline = (side.unit_means_U for side in world.draw(rng))
        p_values.append(sign_flip_p(arm - baseline) if num_units > 5 else label_p(arm, baseline))
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.015)


def test_a_known_difference_is_found_with_the_power_that_was_promised() -> None:
    rng = np.random.default_rng(12)
    world = World(num_units=10, num_prompts=60, seed_sd=0.02, cell_sd=0.0, num_samples=64)
    differences = [_difference(world, rng) for _ in range(300)]
    spread = float(np.std([one for row in differences for one in row], ddof=1))
    d = smallest_difference(spread, 10, Wanted(difference=0.0))
    found = np.mean([sign_flip_p(_difference(world, rng) + d) <= 0.05 for _ in range(600)])
    assert found == pytest.approx(0.8, abs=0.07)


def test_p_value_of_signs_counts_every_arrangement() -> None:
    values = np.array([0.3, -0.1, 0.4, 0.2, 0.5, 0.1])
    means = [np.mean(values * signs) for signs in product((1, -1), repeat=6)]
    share = np.mean(np.array(means) >= values.mean() - 1e-12)
    assert sign_flip_p(values) == pytest.approx(min(1.0, 2 * share))


def test_p_values_are_close_to_students_where_chance_is_normal() -> None:
    rng = np.random.default_rng(13)
    for shift in (0.0, 0.3, 0.8):
        values = rng.normal(shift, 1.0, 14)
        assert sign_flip_p(values) == pytest.approx(ttest_rel(values, np.zeros(14)).pvalue, abs=0.03)


def test_seeds_that_both_arms_have_are_paired_from_six_on() -> None:
    rng = np.random.default_rng(14)
    assert compare(*World(num_units=6).draw(rng)).method == "signs of pairs"
    few = compare(*World(num_units=4).draw(rng))
    assert (few.method, few.num_pairs) == ("labels of units", 0)


def test_pairs_are_matched_by_seed_and_not_by_place() -> None:
    values_UP = np.random.default_rng(15).random((6, 5))
    arm = ArmScores(units=(6, 5, 4, 3, 2, 1), values_UP=values_UP[::-1] + 0.1)
    found = compare(arm, ArmScores(units=(1, 2, 3, 4, 5, 6), values_UP=values_UP))
    assert found.difference.mean == pytest.approx(0.1)
    assert found.difference.standard_error == pytest.approx(0.0, abs=1e-12)


def test_welchs_interval_covers_where_arms_share_no_seed() -> None:
    rng = np.random.default_rng(16)
    covered = 0
    for _ in range(600):
        arm, baseline = World(num_units=5, pairing=0.0, arm_prompt_sd=0.05).draw(rng)
        shifted = ArmScores(units=tuple(range(10, 15)), values_UP=arm.values_UP)
        found = compare(shifted, baseline).difference
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.0 <= found.high
    assert 0.925 <= covered / 600 <= 0.985


@pytest.mark.parametrize("num_units", [3, 5, 6, 8])
def test_the_smallest_p_is_that_of_arms_that_do_not_overlap(num_units: int) -> None:
    low = ArmScores(units=tuple(range(num_units)), values_UP=np.linspace(0.1, 0.2, num_units)[:, None])
    high = ArmScores(units=low.units, values_UP=low.values_UP + 0.5)
    assert permutation_p(high, low) == pytest.approx(smallest_p(num_units)) == compare(high, low).p_value
    assert smallest_p(5000) == 0.0


def test_one_run_an_arm_is_no_evidence() -> None:
    one = ArmScores(units=(1,), values_UP=np.array([[0.5, 0.6]]))
    found = compare(one, one)
    assert (found.p_value, found.difference.low, found.further_units, found.method) == (None, None, None, "none")


def test_arms_on_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        compare(ArmScores(units=(1,), values_UP=np.zeros((1, 2))), ArmScores(units=(1,), values_UP=np.zeros((1, 3))))


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_units_needed_are_the_fewest_that_suffice() -> None:
    wanted = Wanted(difference=0.012)
    needed = units_needed(0.02, wanted)
    assert needed is not None and 20 <= needed <= 26
    assert smallest_difference(0.02, needed, wanted) <= 0.012 < smallest_difference(0.02, needed - 1, wanted)
    assert further_units(0.02, 7, wanted) == needed - 7
    assert further_units(0.02, 100, wanted) == 0


def test_no_number_of_units_shows_what_is_not_there() -> None:
    assert units_needed(0.02, Wanted(difference=0.0)) is None
    assert units_needed(1.0, Wanted(difference=1e-4)) is None


def _difference(world: World, rng: np.random.Generator) -> np.ndarray:
    arm, baseline = world.draw(rng)
    return arm.unit_means_U - baseline.unit_means_U
