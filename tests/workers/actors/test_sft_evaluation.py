"""Held-out metrics and token views, held to the statistics of single samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.messages import TokenView
from service.contract.metric_names import describe_metric
from service.contract.objectives import (
    CrossEntropyObjective,
    DftObjective,
    EaftObjective,
    GemObjective,
    ObjectiveSpec,
    PowerObjective,
    SedObjective,
)
from service.contract.spec import ModelSpec
from tests.workers.tiny_model import make_sft_spec
from workers.actors.policy_model import PolicyModel
from workers.actors.sft_evaluation import HeldOutEvaluation
from workers.data.token_sequence import TokenSequence
from workers.objectives.base import TokenStatistics, WeightedObjective
from workers.objectives.build import build_supervised

SED = SedObjective(tau=0.1)
SAMPLES = (
    TokenSequence(prompt_token_ids=(3, 4), completion_token_ids=(5, 6, 7, 1)),
    TokenSequence(prompt_token_ids=(8,), completion_token_ids=(9, 1)),
    # Two turns: what the user says between them is not trained.
    TokenSequence(
        prompt_token_ids=(10, 11, 12),
        completion_token_ids=(13, 1, 14, 15, 1),
        is_trained=(True, True, False, False, True),
    ),
)
NUM_LABELS = 4 + 2 + 3


@pytest.fixture(scope="module")
def policy(model_folder: Path) -> PolicyModel:
    return PolicyModel(ModelSpec(path=str(model_folder), max_model_len=32), torch.device("cpu"))


def make_evaluation(policy: PolicyModel, objective: ObjectiveSpec = SED, **changes: Any) -> HeldOutEvaluation:
    tau = objective.tau if isinstance(objective, SedObjective) else None
    spec = make_sft_spec("not read", objective=objective, **changes)
    return HeldOutEvaluation(policy, spec, build_supervised(objective, tau), SAMPLES, tau=tau)


def statistics_of(policy: PolicyModel, objective: WeightedObjective) -> list[TokenStatistics]:
    """Sample by sample."""
    return [policy.statistics([sample], needs=objective.needs) for sample in SAMPLES]


def test_metrics_are_means_over_the_label_tokens_of_all_samples(policy: PolicyModel) -> None:
    found = make_evaluation(policy).measure(7)
    statistics = statistics_of(policy, build_weighted(SED))
    nll_N = torch.cat([part.nll_N for part in statistics])
    masses_N = torch.cat([part.top_probs_NK.sum(-1) for part in statistics if part.top_probs_NK is not None])
    likeliest_N = torch.cat([part.is_likeliest_N for part in statistics])
    assert len(nll_N) == NUM_LABELS
    assert found.step == 7
    assert found.values["sft/eval/nll"] == pytest.approx(float(nll_N.mean()), rel=1e-6)
    assert found.values["sft/eval/mean_token_accuracy"] == pytest.approx(float(likeliest_N.float().mean()))
    assert found.values["sft/eval/sed/penalised_fraction"] == pytest.approx(float((masses_N < 0.1).float().mean()))
    assert [name for name in found.values if describe_metric(name) is None] == []


def build_weighted(spec: ObjectiveSpec) -> WeightedObjective:
    objective = build_supervised(spec, None)
    assert isinstance(objective, WeightedObjective)
    return objective


@pytest.mark.parametrize("objective", [CrossEntropyObjective(), GemObjective(), EaftObjective()])
def test_the_usual_metrics_are_the_same_for_every_objective(policy: PolicyModel, objective: ObjectiveSpec) -> None:
    expected = make_evaluation(policy).measure(1).values
    del expected["sft/eval/sed/penalised_fraction"]
    assert make_evaluation(policy, objective).measure(1).values == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("budget", [1, 6, 8192])
def test_micro_batches_change_nothing_but_rounding(policy: PolicyModel, budget: int, packing: bool) -> None:
    whole = make_evaluation(policy)
    cut = make_evaluation(policy, max_tokens_per_microbatch=budget, packing=packing)
    assert cut.measure(1).values == pytest.approx(whole.measure(1).values, rel=1e-6)
    for one, other in zip(whole.token_views(1), cut.token_views(1), strict=True):
        assert one.token_ids == other.token_ids
        assert values_of(other) == pytest.approx(values_of(one), rel=1e-4)


def values_of(view: TokenView) -> list[float]:
    columns = (view.label_probs, view.topk_masses, view.entropies, view.weights)
    return [-1.0 if value is None else value for column in columns for value in column]


def test_views_show_each_token_and_only_trained_ones_have_values(policy: PolicyModel) -> None:
    first, _, conversation = make_evaluation(policy).token_views(5)
    assert (first.stage, first.step, first.sample_index, conversation.sample_index) == ("sft", 5, 0, 2)
    assert first.tokens == ["w0", " w1", " w2", " w3", " w4", " <eos>"]
    assert first.token_ids == [3, 4, 5, 6, 7, 1]
    assert (first.top_k, first.tau) == (2, 0.1)
    for column in (conversation.label_probs, conversation.topk_masses, conversation.entropies, conversation.weights):
        assert [value is not None for value in column] == [False] * 3 + [True, True, False, False, True]


def test_views_hold_the_values_of_their_own_sample(policy: PolicyModel) -> None:
    for sample, view in zip(SAMPLES, make_evaluation(policy).token_views(1), strict=True):
        alone = policy.statistics([sample])
        expected = torch.exp(-alone.nll_N).tolist()
        assert [value for value in view.label_probs if value is not None] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "factor"),
    [
        (CrossEntropyObjective(), lambda p: 1.0),
        (DftObjective(), lambda p: p),
        (PowerObjective(q=0.5), lambda p: p**0.5),
        (SedObjective(mask="none"), lambda p: 1.0 - p * (2.0 * p - 1.0)),
        (SedObjective(tau=0.0), lambda p: 1.0),
    ],
)
def test_the_weight_is_the_factor_on_the_gradient_of_cross_entropy(
    policy: PolicyModel, objective: ObjectiveSpec, factor: Callable[[float], float]
) -> None:
    for view in make_evaluation(policy, objective).token_views(1):
        expected = [None if prob is None else pytest.approx(factor(prob), rel=1e-4) for prob in view.label_probs]
        assert view.weights == expected


def test_an_objective_that_does_not_weigh_tokens_has_no_weights(policy: PolicyModel) -> None:
    view, *_ = make_evaluation(policy, GemObjective()).token_views(1)
    assert view.weights == [None] * 6
    assert (view.top_k, view.tau) == (2, None)


def test_only_the_wanted_samples_are_viewed(policy: PolicyModel) -> None:
    assert make_evaluation(policy, num_token_view_samples=0).token_views(1) == []
    assert [view.sample_index for view in make_evaluation(policy, num_token_view_samples=2).token_views(1)] == [0, 1]


def test_due_before_the_first_at_each_eval_step_and_at_the_end(policy: PolicyModel) -> None:
    evaluation = make_evaluation(policy, eval_data={"path": "/eval"}, eval_steps=3)
    assert [step for step in range(11) if evaluation.is_due(step, 10)] == [0, 3, 6, 9, 10]
    without = make_evaluation(policy)
    assert [step for step in range(11) if without.is_due(step, 10)] == [0, 10]


def test_measuring_draws_no_random_number_and_leaves_no_gradient(policy: PolicyModel) -> None:
    before = torch.get_rng_state()
    evaluation = make_evaluation(policy)
    evaluation.measure(0)
    evaluation.token_views(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in policy.parameters().values())
