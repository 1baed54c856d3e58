"""Any experiments side by side: how they are grouped, what is averaged, and what is warned of."""

from typing import Any

import numpy as np
import pytest

from service.comparison import comparison_csv, comparison_markdown, make_comparison
from service.comparison.facts import ComparedRun
from service.contract.status import ExperimentStatus
from service.errors import InvalidRequest
from service.study_report.facts import StepSeries
from tests.factories import make_spec, spec_body


def run(name: str, *, seed: int = 0, objective: str = "ce", pass_1: float | None = None, **facts: Any) -> ComparedRun:
    sft = spec_body()["sft"] | {"objective": {"type": objective}}
    spec = make_spec(seed=seed, sft=sft, **facts.pop("spec", {}))
    results = {} if pass_1 is None else {"evaluate_after_sft": {"eval/test/pass@1": pass_1}}
    return ComparedRun(
        id=name,
        name=name,
        project="default",
        status=facts.pop("status", ExperimentStatus.SUCCEEDED),
        seed=seed,
        rl_seed=seed,
        has_sft=True,
        spec=spec.model_dump(mode="json"),
        study_arm=None,
        results=results,
        **facts,
    )


def series(values: list[float], step_s: float = 2.0) -> StepSeries:
    steps = np.arange(1, len(values) + 1)
    return StepSeries(steps=steps, values=np.array(values), seconds=(steps - 1) * step_s)


def test_what_differs_in_seeds_alone_is_one_group_and_kinds_tell_groups_apart() -> None:
    runs = [run("a", seed=1), run("b", seed=2), run("c", seed=1, objective="sed"), run("d", seed=2, objective="sed")]
    found = make_comparison(runs, None, [], [])
    assert (found.by, [one.label for one in found.groups]) == (["sft.objective.type"], ["ce", "sed"])
    assert [one.experiment_ids for one in found.groups] == [["a", "b"], ["c", "d"]]
    differing = {one.path: (one.values, one.within_groups) for one in found.differing}
    assert differing["seed"] == (["1, 2", "1, 2"], True)
    assert differing["sft.objective.top_k"][0][0] == "–" and not found.warnings
    assert make_comparison(runs[:2], None, [], []).groups[0].label == "all"


def test_figures_are_means_over_seeds_with_students_interval() -> None:
    runs = [run("a", seed=1, pass_1=0.2), run("b", seed=2, pass_1=0.4), run("c", objective="sed", pass_1=0.9)]
    [row] = make_comparison(runs, None, [], []).results
    ce, sed = row.figures
    assert ce is not None and sed is not None
    assert (ce.mean, ce.num_units) == (pytest.approx(0.3), 2) and ce.low is not None and ce.low < 0.0
    assert (sed.mean, sed.low, sed.num_units) == (0.9, None, 1)


def test_runs_of_one_seed_are_one_unit() -> None:
    runs = [run("a", pass_1=0.2), run("b", pass_1=0.4, spec={"model": {"path": "/models/other"}})]
    found = make_comparison(runs, [], [], [])
    figure = found.results[0].figures[0]
    assert figure is not None and (figure.num_units, figure.num_runs, figure.low) == (1, 2, None)
    assert "group by these too" in found.warnings[0] and "model.path" in found.warnings[0]


def test_curves_stand_where_all_runs_are_and_failed_ones_shorten_nothing() -> None:
    measured = {"sft/nll": series([3.0, 2.0, 1.0])}
    runs = [
        run("a", seed=1, series=measured),
        run("b", seed=2, series={"sft/nll": series([5.0, 4.0, 3.0, 2.0])}),
        run("c", seed=3, series={"sft/nll": series([9.0])}, status=ExperimentStatus.FAILED),
    ]
    found = make_comparison(runs, None, ["sft/nll", "reward/mean"], ["sft/nll"])
    nll, reward = found.curves
    [curve] = nll.curves
    assert (curve.steps, curve.mean, curve.num_units) == ([1, 2, 3], [4.0, 3.0, 2.0], 2)
    assert curve.seconds == [0.0, 2.0, 4.0] and curve.tokens is None and curve.low[0] is not None
    assert [len(one.steps) for one in curve.runs] == [3, 4, 1] and reward.curves == []
    assert any("Failed or cancelled" in text and text.endswith("c") for text in found.warnings)


def test_a_field_that_nothing_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match=r"sft\.objective\.typ.*did you mean sft\.objective\.type"):
        make_comparison([run("a")], ["sft.objective.typ"], [], [])


def test_what_was_measured_differently_is_said() -> None:
    runs = [
        run("a", pass_1=0.1, conditions={"test: sampling": "4 samples"}),
        run("b", objective="sed", pass_1=0.1, conditions={"test: sampling": "8 samples"}),
    ]
    [first, *_] = make_comparison(runs, None, [], []).warnings
    assert "test: sampling: 4 samples (ce); 8 samples (sed)" in first


def test_it_can_be_taken_along() -> None:
    runs = [run("a", pass_1=0.1, series={"sft/nll": series([2.0, 1.0])})]
    found = make_comparison(runs, None, ["sft/nll"], ["sft/nll"])
    lines = comparison_csv(found).splitlines()
    assert lines[1].startswith("result,all,evaluate_after_sft,eval/test/pass@1,fraction,,,,0.1,,,1,1")
    assert lines[2].startswith("curve,all,,sft/nll,nats/token,1,0.0,,2.0,")
    assert "| evaluate_after_sft | eval/test/pass@1 | fraction | 0.1 (n 1) |" in comparison_markdown(found)
