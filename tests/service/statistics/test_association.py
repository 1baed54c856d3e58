import numpy as np
import pytest
from scipy.stats import linregress, pearsonr, spearmanr

from service.statistics.association import associate


def test_figures_are_scipys() -> None:
    rng = np.random.default_rng(21)
    x = rng.random(12)
    y = 2 * x + rng.normal(0, 0.3, 12)
    found = associate(x.tolist(), y.tolist(), list(range(12)))
    assert found.pearson.value == pytest.approx(pearsonr(x, y).statistic)
    assert found.spearman.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.slope.value == pytest.approx(linregress(x, y).slope)


def test_interval_holds_the_truth_and_grows_where_runs_share_their_sft() -> None:
    rng = np.random.default_rng(22)
    x = np.repeat(rng.random(8), 5)
    y = x + np.repeat(rng.normal(0, 0.3, 8), 5)
    apart = associate(x.tolist(), y.tolist(), list(range(40))).slope
    together = associate(x.tolist(), y.tolist(), np.repeat(range(8), 5).tolist()).slope
    assert apart.low is not None and apart.high is not None and together.low is not None and together.high is not None
    assert together.low < 1.0 < together.high
    assert together.high - together.low > 1.3 * (apart.high - apart.low)


def test_too_few_clusters_give_no_interval_and_no_variation_no_figure() -> None:
    few = associate([1.0, 2.0, 3.0], [1.0, 2.0, 2.5], ["a", "b", "b"])
    assert few.num_clusters == 2 and few.pearson.value is not None and few.pearson.low is None
    assert associate([1.0, 1.0], [1.0, 2.0], [1, 2]).pearson.value is None


def test_lists_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry"):
        associate([1.0], [1.0, 2.0], [1, 2])
    with pytest.raises(ValueError, match="finite"):
        associate([1.0, float("nan")], [1.0, 2.0], [1, 2])
