"""A report worked out a second time, from the exported counts alone, with numpy and nothing of the service's."""

import csv
import io
from itertools import product

import numpy as np
import pytest

from service.study_report.rendering import counts_csv
from service.study_report.report import make_report
from tests.service.study_report.hand_made import NOW, random_study

T_975_OF_7, Z_975 = 2.364624, 1.959964
"""Quantiles of Student's distribution with 7 degrees of freedom and of the normal one."""


def table_of(rows: list[dict[str, str]], arm: str, point: str) -> np.ndarray:
    """Share of right samples, seeds x prompts."""
    chosen = [row for row in rows if row["arm"] == arm and row["point"] == point and row["counts"] == "True"]
    seeds = sorted({int(row["sft_seed"]) for row in chosen})
    uids = sorted({int(row["uid"]) for row in chosen})
    table = np.full((len(seeds), len(uids)), np.nan)
    for row in chosen:
        place = seeds.index(int(row["sft_seed"])), uids.index(int(row["uid"]))
        table[place] = int(row["num_right"]) / int(row["num_samples"])
    return table


def interval_over_seeds(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seeds drawn with replacement, their spread widened as Student's quantile is beside the normal one."""
    seed_means = table.mean(axis=1)
    factor = np.sqrt(8 / 7) * T_975_OF_7 / Z_975
    drawn = seed_means[rng.integers(8, size=(100_000, 8))].mean(axis=1)
    return np.quantile(seed_means.mean() + factor * (drawn - seed_means.mean()), [0.025, 0.975])


def interval_over_both(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seeds, then prompts, whose deviations are scaled to what is left without the chance of single cells."""
    num_seeds, num_prompts = table.shape
    mean, seed_means, prompt_means = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = table - seed_means[:, None] - prompt_means[None, :] + mean
    cells = (rest**2).sum() / ((num_seeds - 1) * (num_prompts - 1)) / (num_seeds * num_prompts)
    whole = prompt_means.var(ddof=1) / num_prompts
    scale = np.sqrt(max(0.0, whole - cells) / whole)
    factor = np.sqrt(num_seeds / (num_seeds - 1)) * T_975_OF_7 / Z_975
    seeds = seed_means[rng.integers(num_seeds, size=(100_000, num_seeds))].mean(axis=1) - mean
    prompts = prompt_means[rng.integers(num_prompts, size=(100_000, num_prompts))].mean(axis=1) - mean
    return np.quantile(mean + factor * seeds + scale * prompts, [0.025, 0.975])


def test_a_report_follows_from_the_exported_counts() -> None:
    facts = random_study(lead=0.04)
    part = make_report(facts, NOW).parts[0]
    text = b"".join(counts_csv(facts.id, facts.runs)).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    rng = np.random.default_rng(9)
    for row in part.table.rows:
        if row.point == "base":
            continue
        figure, table = row.cells[0].figure, table_of(rows, row.arm, row.point)
        assert figure is not None and figure.mean == pytest.approx(table.mean(), abs=1e-12)
        low, high = interval_over_seeds(table, rng)
        assert (figure.low, figure.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    (found,) = [row for row in part.comparisons if row.is_primary]
    difference = table_of(rows, "sed", "after_rl") - table_of(rows, "ce", "after_rl")
    assert found.difference.mean == pytest.approx(difference.mean(), abs=1e-12)
    low, high = interval_over_both(difference, rng)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    flipped = [np.abs((difference.mean(axis=1) * signs).mean()) for signs in product((1, -1), repeat=8)]
    assert found.p_value == pytest.approx(np.mean(np.array(flipped) >= abs(difference.mean()) - 1e-12))
    assert found.p_adjusted == found.p_value
