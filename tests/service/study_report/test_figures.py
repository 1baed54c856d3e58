"""Figures of hand-made studies against what they are on paper."""

import numpy as np
import pytest

from service.contract.status import ExperimentStatus
from service.contract.studies import StudySpec
from service.contract.study_report import ArmComparison, StudyPart
from service.statistics.scores import ArmScores
from service.statistics.two_way import spread_of_mean
from service.study_report.facts import AttemptFacts, StageFacts
from service.study_report.report import make_report
from service.study_report.scoring import average
from tests.service.study_report.hand_made import NOW, counts, random_study, run, series, study, study_spec


def part_of(runs, spec: StudySpec | None = None) -> StudyPart:
    report = make_report(study(runs, spec), NOW)
    assert len(report.parts) == 1
    return report.parts[0]


def primary(part: StudyPart) -> list[ArmComparison]:
    return [row for row in part.comparisons if row.is_primary]


def means(part: StudyPart) -> dict[tuple[str, str], list[float | None]]:
    return {
        (row.point, row.arm): [cell.figure and round(cell.figure.mean, 6) for cell in row.cells]
        for row in part.table.rows
    }


def test_rows_are_means_over_seeds_of_means_over_prompts() -> None:
    part = part_of(
        [
            run("ce", 1, {"base": [0, 0], "after_sft": [1, 3], "after_rl": [2, 4]}),
            run("ce", 2, {"base": [0, 2], "after_sft": [0, 0], "after_rl": [4, 4]}),
        ]
    )
    assert [column.title for column in part.table.columns] == ["test pass@1"]
    assert means(part) == {
        ("base", "base model"): [0.125],
        ("after_sft", "ce"): [0.25],
        ("after_rl", "ce"): [0.875],
    }
    figure = part.table.rows[-1].cells[0].figure
    assert figure is not None and (figure.num_units, figure.num_runs) == (2, 2)


def test_rl_seeds_of_one_sft_are_one_unit_and_sft_is_counted_once() -> None:
    part = part_of(
        [
            run("ce", 1, {"after_sft": [2], "after_rl": [0]}, rl_seed=1),
            run("ce", 1, {"after_sft": [2], "after_rl": [4]}, rl_seed=2),
            run("ce", 2, {"after_sft": [4], "after_rl": [4]}, rl_seed=1),
        ]
    )
    sft, rl = (row.cells[0].figure for row in part.table.rows)
    assert sft is not None and rl is not None
    assert (sft.mean, sft.num_units, sft.num_runs) == (0.75, 2, 2)
    assert (rl.mean, rl.num_units, rl.num_runs) == (0.75, 2, 3)


def test_average_counts_every_set_alike_and_its_prompts_within_their_set() -> None:
    part = part_of(
        [run("ce", seed, {"after_rl": {"small": [4], "large": [0, 0, 2]}}, first_set="small") for seed in (1, 2)]
    )
    assert [column.key for column in part.table.columns] == ["small", "large", "average"]
    assert means(part)["after_rl", "ce"] == [
        1.0,
        pytest.approx(1 / 6, abs=1e-5),
        pytest.approx((1 + 1 / 6) / 2, abs=1e-5),
    ]
    rng = np.random.default_rng(3)
    tables = [ArmScores(units=(1, 2), values_UP=rng.random((2, size)) + shift) for size, shift in ((30, 0), (60, 5))]
    within = sum(spread_of_mean(table.values_UP).prompts for table in tables) / 4
    assert spread_of_mean(average(tables).values_UP).prompts == pytest.approx(within, rel=0.25)
    assert average(tables).mean == pytest.approx(np.mean([table.mean for table in tables]))


def test_prompts_without_a_verdict_in_some_run_count_for_nobody() -> None:
    part = part_of(
        [
            run("ce", 1, {"after_rl": counts([4, 0, 4], uids=[3, 5, 9])}),
            run("sed", 1, {"after_rl": counts([4, 4], uids=[3, 9])}),
        ]
    )
    assert (part.table.columns[0].num_prompts, part.table.columns[0].num_left_out) == (2, 1)
    assert means(part) == {("after_rl", "ce"): [1.0], ("after_rl", "sed"): [1.0]}
    assert "1 of 3 prompts are left out" in part.notes[0]


def test_a_difference_that_is_there_is_found_and_bold() -> None:
    part = make_report(random_study(), NOW).parts[0]
    (row,) = primary(part)
    assert row.is_distinguishable and row.method == "signs of pairs" and row.difference.num_units == 8
    assert row.difference.mean == pytest.approx(0.15, abs=0.04)
    assert "distinguishable (p = 0.0078)" in row.sentence
    bold = {(one.point, one.arm) for one in part.table.rows for cell in one.cells if cell.is_best}
    assert bold == {("after_rl", "sed")}


def test_no_difference_is_neither_bold_nor_called_one_and_the_seeds_for_it_are_told() -> None:
    facts = random_study(lead=0.0)
    part = make_report(facts, NOW).parts[0]
    (row,) = primary(part)
    assert row.is_distinguishable is False and row.further_seeds is not None and row.further_seeds > 0
    assert f"about {row.further_seeds} more seeds would show a difference of" in row.sentence
    assert not any(cell.is_best for one in part.table.rows for cell in one.cells)


def test_seeds_for_the_smallest_difference_that_matters() -> None:
    facts = random_study(lead=0.0)
    rows = [
        primary(make_report(study(facts.runs, study_spec(smallest_difference=wanted)), NOW).parts[0])[0]
        for wanted in (0.5, 0.005)
    ]
    assert rows[0].further_seeds == 0 and "4 of 5 studies" in rows[0].sentence
    assert rows[1].wanted_difference == 0.005 and (rows[1].further_seeds or 0) > 8


def test_seeds_are_as_many_as_permutations_need_for_the_strictest_step_of_holm() -> None:
    arms = ("ce", "a", "b", "c", "d", "e")
    rng = np.random.default_rng(2)
    runs = [
        run(arm, seed, {"after_rl": [int(x) for x in rng.binomial(4, 0.5 if arm == "ce" else 0.9, 10)]})
        for arm in arms
        for seed in (1, 2, 3)
    ]
    rows = primary(part_of(runs, study_spec(arms)))
    # Three against three: no p-value below .1. Level .05 / 5 needs five (2/252), while six pairs only reach .031.
    assert len(rows) == 5 and all(row.is_distinguishable is False and row.p_value >= 0.1 for row in rows)
    assert min(row.further_seeds for row in rows) == 2


def test_holm_is_over_the_arms_of_one_column_and_point() -> None:
    rng = np.random.default_rng(4)
    runs = [
        run(arm, seed, {"after_rl": [int(x) for x in rng.binomial(4, chance, 12)]})
        for arm, chance in (("ce", 0.4), ("a", 0.6), ("b", 0.9))
        for seed in range(1, 8)
    ]
    first, second = primary(part_of(runs, study_spec(("ce", "a", "b"))))
    smaller, larger = sorted((first, second), key=lambda row: row.p_value)
    assert smaller.p_adjusted == pytest.approx(min(1, 2 * smaller.p_value))
    assert larger.p_adjusted == pytest.approx(max(smaller.p_adjusted, larger.p_value))


def test_an_arm_without_rl_stands_in_at_its_last_point_where_the_study_decides_and_only_there() -> None:
    runs = [
        one
        for seed in (1, 2)
        for one in (
            run("ce", seed, {"base": [0, 1], "after_sft": [2, 2], "after_rl": [4, 4]}),
            run("untouched", seed, {"base": [0, 1]}, has_sft=False, has_rl=False),
        )
    ]
    part = part_of(runs, study_spec(("ce", "untouched")))
    assert primary(part)[0].difference.mean == pytest.approx(1 / 8 - 1)
    assert {(row.point, row.arm) for row in part.comparisons} == {("after_rl", "untouched")}
    assert [row.arm for row in part.table.rows if row.point == "base"] == ["base model"]


def test_arms_with_factors_are_compared_with_the_baseline_of_the_same_values() -> None:
    spec = study_spec(("ce", "sed"), factors={"sft.num_epochs": [1, 3]})
    chances = {
        "ce [sft.num_epochs=1]": 0,
        "sed [sft.num_epochs=1]": 1,
        "ce [sft.num_epochs=3]": 2,
        "sed [sft.num_epochs=3]": 4,
    }
    runs = [run(arm, seed, {"after_rl": [right]}) for arm, right in chances.items() for seed in (1, 2)]
    found = {row.arm: (row.baseline, row.difference.mean) for row in primary(part_of(runs, spec))}
    assert found == {
        "sed [sft.num_epochs=1]": ("ce [sft.num_epochs=1]", 0.25),
        "sed [sft.num_epochs=3]": ("ce [sft.num_epochs=3]", 0.5),
    }


def test_arms_that_are_equal_are_said_to_be() -> None:
    part = part_of([run(arm, seed, {"after_rl": [1, 2]}) for arm in ("ce", "sed") for seed in (1, 2)])
    assert primary(part)[0].sentence == (
        "sed against ce: +0.0 [+0.0, +0.0] points; not distinguishable (p = 1); no difference was seen."
    )


def test_one_seed_says_nothing() -> None:
    part = part_of([run(arm, 1, {"after_rl": [1, 2]}) for arm in ("ce", "sed")])
    (row,) = primary(part)
    assert (row.is_distinguishable, row.p_value, row.difference.low, row.further_seeds) == (None, None, None, None)
    assert "nothing can be said" in row.sentence


def test_runs_that_failed_or_were_excluded_are_told_and_not_counted() -> None:
    report = make_report(
        study(
            [
                run("ce", 1, {"after_rl": [4]}),
                run("ce", 2, {"after_rl": [0]}, excluded_at=NOW, excluded_by="ada", excluded_reason="wrong data"),
                run("sed", 1, {}, status=ExperimentStatus.FAILED, end_reason="stage_failed", message="broken"),
            ],
            num_planned=4,
            is_over=False,
        ),
        NOW,
    )
    assert means(report.parts[0]) == {("after_rl", "ce"): [1.0]}
    assert [(lost.why, lost.reason) for lost in report.provenance.lost_runs] == [
        ("excluded", "wrong data (by ada)"),
        ("failed", "stage_failed: broken"),
    ]
    assert not report.is_finished
    assert report.state == (
        "Unfinished: 2 of 4 runs have succeeded, 1 have failed or were cancelled, 1 are excluded; "
        "figures may still change."
    )


def test_a_study_without_results_has_a_report_that_says_so() -> None:
    report = make_report(study([], num_planned=16, is_over=False), NOW)
    assert (report.parts, report.answers, report.costs) == ([], [], [])
    assert report.state.startswith("Unfinished: 0 of 16 runs")


def test_runs_that_were_not_measured_alike_stand_in_tables_of_their_own() -> None:
    like = {"test: prompts": "aa", "engine": "vllm 1 on CPU"}
    runs = [run(arm, seed, {"after_rl": [2]}, conditions=like) for arm in ("ce", "sed") for seed in (1, 2)]
    other = [run("gem", 1, {"after_rl": [2]}, conditions=like | {"engine": "vllm 2 on CPU"})]
    report = make_report(study(runs + other, study_spec(("ce", "sed", "gem"))), NOW)
    assert [part.arms for part in report.parts] == [["ce", "sed"], ["gem"]]
    assert [(one.name, one.values) for one in report.differing] == [("engine", ["vllm 1 on CPU", "vllm 2 on CPU"])]
    assert "no run of the baseline ce" in report.parts[1].notes[-1]


def test_data_of_one_name_must_be_one_and_data_of_two_names_may_differ() -> None:
    def at(seed: int, arm: str, name: str, digest: str):
        return run(arm, seed, {"after_rl": [2]}, training_data={name: digest})

    differing = study([at(1, "ce", "SFT data a", "1"), at(1, "sed", "SFT data b", "2")])
    assert len(make_report(differing, NOW).parts) == 1
    changed = study([at(1, "ce", "SFT data a", "1"), at(2, "ce", "SFT data a", "2")])
    report = make_report(changed, NOW)
    assert len(report.parts) == 2 and report.differing[0].name == "SFT data a"


def test_pass_at_k_curves_reach_from_one_to_all_samples() -> None:
    part = part_of([run("ce", 1, {"after_sft": [1, 4]})])
    (curve,) = part.pass_curves
    assert curve.ks == [1, 2, 4]
    # Of 4 samples 1 right: 1/4, 1/2, 1.
    assert [figure.mean for figure in curve.figures] == pytest.approx([0.625, 0.75, 1.0])


def test_mixed_groups_go_with_the_gain_over_policies_and_not_over_runs() -> None:
    def one(seed: int, rl_seed: int):
        mixed = {"diversity/test/frac_mixed_groups": seed / 10}
        points = {"after_sft": counts([0], num_samples=10), "after_rl": counts([seed], num_samples=10)}
        return run("ce", seed, points, rl_seed=rl_seed, metrics={"after_sft": mixed})

    part = part_of([one(seed, rl_seed) for seed in range(1, 6) for rl_seed in (1, 2)])
    gain = next(row for row in part.associations if row.y == "RL gain")
    assert (gain.x, gain.num_runs, gain.num_clusters) == ("frac_mixed_groups", 10, 5)
    assert gain.slope.value == pytest.approx(1.0) and gain.pearson.value == pytest.approx(1.0)
    assert gain.slope.low == pytest.approx(1.0)


def test_curves_over_steps_are_means_over_seeds_with_what_the_steps_had_cost() -> None:
    runs = [
        run(
            "ce",
            seed,
            {"after_rl": [1]},
            num_gpus=2.0,
            num_cpus=4.0,
            updates_per_step=3.0,
            series={
                "reward/mean": series([base, base + 1]),
                "timing_s/step": series([1800.0, 5400.0]),
                "training/num_tokens": series([100.0, 300.0]),
            },
        )
        for seed, base in ((1, 0.0), (2, 2.0))
    ]
    (curve,) = part_of(runs).step_curves
    assert (curve.steps, curve.mean, curve.updates, curve.tokens) == ([1, 2], [1.0, 2.0], [3.0, 6.0], [100.0, 300.0])
    assert (curve.gpu_hours, curve.cpu_hours) == ([1.0, 4.0], [2.0, 8.0])
    # t(.975, 1) = 12.706, s = sqrt(2), U = 2.
    assert curve.high[0] == pytest.approx(1 + 12.706, abs=1e-3)


def test_costs_count_a_shared_stage_once_and_know_what_came_to_nothing() -> None:
    def stage(name: str, source: str, attempt: str, seconds: float, tokens: float = 0.0) -> StageFacts:
        return StageFacts(
            stage=name, source_id=source, attempt_id=attempt, duration_s=seconds, num_tokens=tokens, code={}, digests={}
        )

    def attempt(name: str, seconds: float, *, is_loss: bool = False) -> AttemptFacts:
        return AttemptFacts(id=name, held_s=seconds, num_cpus=2.0, num_gpus=0.0, is_loss=is_loss)

    first = run(
        "ce",
        1,
        {},
        experiment_id="one",
        num_cpus=2.0,
        stages=[stage("sft", "one", "a1", 30.0, 500.0), stage("rl", "one", "a2", 50.0, 40.0)],
        attempts=[attempt("a1", 100.0, is_loss=True), attempt("a2", 60.0)],
        completions_per_step=8,
        series={"completions/mean_length": series([10.0, 20.0])},
    )
    second = run(
        "ce",
        1,
        {},
        experiment_id="two",
        num_cpus=2.0,
        stages=[stage("sft", "one", "b1", 30.0, 500.0), stage("rl", "two", "b1", 20.0, 60.0)],
        attempts=[attempt("b1", 40.0)],
    )
    cost = make_report(study([first, second]), NOW).costs[0]
    assert {phase.phase: phase.cpu_s for phase in cost.phases} == {"sft": 60.0, "rl": 140.0}
    assert (cost.held_cpu_s, cost.wasted_cpu_s, cost.wasted_share) == (400.0, 140.0, 0.35)
    assert (cost.sft_tokens_trained, cost.rl_tokens_trained, cost.rl_tokens_generated) == (500.0, 100.0, 240.0)


def test_a_papers_rows_stand_beside_marked_and_are_no_part_of_any_comparison() -> None:
    spec = study_spec(("ce", "sed"), published={"model": "llama-3.2-3b"})
    sets = {"gsm8k": [2, 4], "mine": [1, 1]}
    runs = [run(arm, seed, {"after_rl": sets}, first_set="gsm8k") for arm in ("ce", "sed") for seed in (1, 2)]
    part = part_of(runs, spec)
    rows = {(row.point, row.arm): row for row in part.table.rows if row.source == "published, single run"}
    assert len(rows) == 10
    figures = [cell.figure and cell.figure.mean for cell in rows["after_rl", "SED-SFT"].cells]
    assert figures == [pytest.approx(0.851), None, None]
    assert {row.arm for row in part.comparisons} == {"sed"}
    with pytest.raises(ValueError, match="has no model 'gpt'"):
        study_spec(published={"model": "gpt"})
