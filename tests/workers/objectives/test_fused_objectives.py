"""Every objective through the fused sweep: against vectors, against a slow float64 oracle, and under any cut."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.workers.objectives.oracle import (
    OBJECTIVES,
    Layer,
    fused,
    given_logits,
    gradients,
    logits_of,
    oracle_loss,
    random_layer,
)
from workers.objectives.anchored import Anchored, Tilted
from workers.objectives.base import ObjectiveOutput, RowObjective
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.eksft import SelectedTokens
from workers.objectives.gem import Gem
from workers.objectives.output_head import OutputHead, ReferenceRows
from workers.objectives.power_family import Deft, DynamicFineTuning, Power
from workers.objectives.reweighted import EntropyAdaptive, Focal, ProbabilityFilter
from workers.objectives.sed_sft import SelectivePenalty
from workers.objectives.smoothed import EntropyRegularised, LabelSmoothing
from workers.objectives.step_metrics import token_means

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
TOLERANCES = VECTORS["tolerances"]
every_objective = pytest.mark.parametrize("name", OBJECTIVES)
seeds = st.integers(0, 2**31)


def vector_objective(name: str, params: dict[str, Any]) -> RowObjective:
    """The objective that a vector's name stands for."""
    made: dict[str, RowObjective] = {
        "ce": CrossEntropy(),
        "sed": SelectivePenalty(lambda_=params["lam"], top_k=params["k"], tau=float(params["tau"])),
        "dft": DynamicFineTuning(),
        "gem_linear": Gem(h="linear", beta=params["gem_beta"]),
        "gem_logsigmoid": Gem(h="logsigmoid", beta=params["gem_beta"]),
        "label_smoothing_eps0.1": LabelSmoothing(epsilon=0.1),
        "focal_gamma2": Focal(gamma=2.0),
        "entropy_reg_lam0.05": EntropyRegularised(lambda_=0.05),
        "one_minus_p": Power(q=1.0),
        "power_q0.5": Power(q=0.5),
        "deft": Deft(),
        "eaft_K3_norm_lnK": EntropyAdaptive(alpha=1.0, top_k=3),
    }
    return made[name]


IGNORED = -100
"""Label of a row that is not trained, in the vectors."""


def of_logits(
    objective: RowObjective, logits_NV: Tensor, labels_N: Tensor, reference_NV: Tensor | None = None
) -> tuple[ObjectiveOutput, Tensor]:
    """The objective of given logits, and its gradient by them."""
    layer = given_logits(logits_NV, labels_N, reference_NV)
    output = fused(objective, layer)
    return output, torch.autograd.grad(output.loss_sum, layer.hidden_NH)[0]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=[case["name"] for case in VECTORS["cases"]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_objective_gives_the_vectors(case: dict[str, Any], dtype: torch.dtype) -> None:
    labels = torch.tensor(case["labels"])
    kept = labels != IGNORED
    logits_NV = torch.tensor(case["logits"], dtype=dtype)[kept]
    exact = dtype == torch.float64
    for name in case["expected"].keys() - {"rows"}:
        expected = case["expected"][name]
        output, gradient_NV = of_logits(vector_objective(name, case["params"]), logits_NV, labels[kept])
        loss_tolerance = {"abs": TOLERANCES["fp64"]} if exact else {"rel": TOLERANCES["fp32_loss_rel"], "abs": 5e-7}
        assert output.loss_sum.item() / int(kept.sum()) == pytest.approx(expected["mean"], **loss_tolerance), name
        torch.testing.assert_close(
            gradient_NV / kept.sum(),
            torch.tensor(expected["grad_of_mean"], dtype=dtype)[kept],
            rtol=0,
            atol=TOLERANCES["fp64" if exact else "fp32_grad_abs"],
            msg=name,
        )


@every_objective
@settings(max_examples=15, deadline=None)
@given(
    seed=seeds,
    shape=st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(4, 12)),
    biased=st.booleans(),
    softcap=st.sampled_from([None, 2.0, 30.0]),
    scale=st.sampled_from([1.0, 0.5]),
    temperature=st.sampled_from([1.0, 0.7]),
    chunk_tokens=st.integers(1, 10),
)
def test_gradients_of_the_whole_layer_are_those_of_the_oracle(
    name: str,
    seed: int,
    shape: tuple[int, int, int],
    biased: bool,
    softcap: float | None,
    scale: float,
    temperature: float,
    chunk_tokens: int,
) -> None:
    num_rows, hidden, vocabulary = shape
    head = {"softcap": softcap, "scale": scale}
    layer = random_layer(seed, num_rows, hidden=hidden, vocabulary=vocabulary, biased=biased, **head)
    output = fused(OBJECTIVES[name], layer, temperature=temperature, chunk_tokens=chunk_tokens)
    reference_NV = logits_of(layer.reference.hidden_NH, layer.reference.head) / temperature
    expected = oracle_loss(name, logits_of(layer.hidden_NH, layer.head) / temperature, layer.labels_N, reference_NV)
    ours, theirs = gradients(output.loss_sum * 0.25, layer), gradients(expected.sum() * 0.25, layer)
    assert output.loss_sum.item() == pytest.approx(expected.sum().item(), abs=1e-10)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@every_objective
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_chunk_size_changes_rounding_only(name: str, dtype: torch.dtype, tolerance: float) -> None:
    results = []
    for chunk_tokens in (1, 3, 50):
        layer = random_layer(5, 11, dtype)
        output = fused(OBJECTIVES[name], layer, chunk_tokens=chunk_tokens)
        results.append((output, gradients(output.loss_sum, layer)))
    for output, found in results[1:]:
        assert token_means([output], 11) == pytest.approx(token_means([results[0][0]], 11), abs=tolerance)
        for one, other in zip(found, results[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@every_objective
@settings(max_examples=10, deadline=None)
@given(seed=seeds, cuts=st.lists(st.integers(1, 11), max_size=4), chunk_tokens=st.integers(1, 12))
def test_micro_batches_add_up_to_the_whole(name: str, seed: int, cuts: list[int], chunk_tokens: int) -> None:
    layer = random_layer(seed, 12)

    def outputs(bounds: list[int], **options: Any) -> tuple[list[ObjectiveOutput], list[Tensor]]:
        parts = [fused(OBJECTIVES[name], layer.part(slice(low, high)), **options) for low, high in pairwise(bounds)]
        return parts, gradients(torch.stack([part.loss_sum / 12 for part in parts]).sum(), layer)

    whole, expected = outputs([0, 12])
    parts, found = outputs([0, *sorted(set(cuts)), 12], chunk_tokens=chunk_tokens)
    assert token_means(parts, 12) == pytest.approx(token_means(whole, 12), abs=1e-10)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Gem(h="linear", beta=1.0), CrossEntropy()),
        (LabelSmoothing(epsilon=0.0), CrossEntropy()),
        (EntropyRegularised(lambda_=0.0), CrossEntropy()),
        (Focal(gamma=0.0), CrossEntropy()),
        (ProbabilityFilter(threshold=0.0), CrossEntropy()),
        (EntropyAdaptive(alpha=0.0, top_k=3), CrossEntropy()),
        (Power(q=1e-9), CrossEntropy()),
        (Power(q=1.0), DynamicFineTuning()),
        (Anchored(kl_coef=0.0), DynamicFineTuning()),
        (Tilted(beta=500.0, smoothing=0.0), CrossEntropy()),
        (Tilted(beta=math.log(7 * 0.9 / 0.1 + 1), smoothing=1.0), LabelSmoothing(epsilon=0.1)),
    ],
    ids=str,
)
def test_objectives_that_meet_have_the_same_gradient(one: RowObjective, other: RowObjective) -> None:
    layer = random_layer(3, 20)
    logits_NV, reference_NV = (3.0 * logits_of(part.hidden_NH, part.head).detach() for part in (layer, layer.reference))
    _, first = of_logits(one, logits_NV, layer.labels_N, reference_NV)
    _, second = of_logits(other, logits_NV, layer.labels_N, reference_NV)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-7 if one == Power(q=1e-9) else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("twin", [{"lambda_": 0.0, "tau": math.inf}, {"lambda_": 1.0, "tau": 0.0}])
def test_sed_without_a_penalty_is_cross_entropy_bit_for_bit(dtype: torch.dtype, twin: dict[str, float]) -> None:
    results = []
    for objective in (CrossEntropy(), SelectivePenalty(top_k=2, **twin)):
        layer = random_layer(8, 9, dtype, biased=False)
        output = fused(objective, layer, chunk_tokens=4)
        results.append((output.loss_sum.detach(), *gradients(output.loss_sum / 9, layer)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_extreme_logits_stay_finite(name: str, dtype: torch.dtype, shift: int) -> None:
    rows = torch.tensor(
        [
            [1e4, -1e4, 0.0, 0.0, 3.0, 0.0, 0.0],
            [1024.0, -1024.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0],
            [0.0, -176.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ],
        dtype=dtype,
    )
    for labels_N in (torch.tensor([1, 0, 0, 1]), torch.tensor([0, 1, 2, 3])):
        output, gradient_NV = of_logits(OBJECTIVES[name], rows, labels_N, rows.roll(shift, 0))
        assert math.isfinite(output.loss_sum.item())
        assert all(math.isfinite(value) for value in token_means([output], 4).values())
        assert bool(gradient_NV.isfinite().all())


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("label smoothing", "gift smoothed")])
def test_a_bias_of_minus_infinity_takes_a_row_out(name: str) -> None:
    """Of both models; the two objectives that ask for some probability on every row are left out."""
    layer = random_layer(4, 8)
    labels_N, objective = layer.labels_N.clamp_max(4), OBJECTIVES[name]
    if isinstance(objective, SelectedTokens):
        objective = replace(objective, entropy_factor=0.0)  # It is measured against the number of rows.
    gone_V = torch.tensor([0.0] * 5 + [-math.inf] * 2, dtype=torch.float64)

    def variant(change: slice, gone: Tensor) -> Layer:
        heads = [
            OutputHead(weight_VH=weight_VH[change], bias_V=bias_V[change] + gone[change])
            for weight_VH, bias_V in (
                (layer.head.weight_VH, layer.head.bias_V),
                (layer.reference.head.weight_VH, torch.zeros(7, dtype=torch.float64)),
            )
        ]
        reference = ReferenceRows(hidden_NH=layer.reference.hidden_NH, head=heads[1])
        return Layer(hidden_NH=layer.hidden_NH, head=heads[0], labels_N=labels_N, reference=reference)

    found = []
    for changed in (variant(slice(7), gone_V), variant(slice(5), torch.zeros_like(gone_V))):
        loss = fused(objective, changed).loss_sum
        found.append((loss.detach(), *gradients(loss, layer)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert not found[0][2][5:].any()


def test_a_certain_label_has_no_loss_and_an_impossible_one_keeps_the_gradient_of_cross_entropy() -> None:
    logits_NV = torch.tensor([[1024.0, -1024.0, 0.0], [1024.0, -1024.0, 0.0]], dtype=torch.float64)
    output, gradient_NV = of_logits(
        SelectivePenalty(lambda_=1.0, top_k=2, tau=math.inf), logits_NV, torch.tensor([0, 1])
    )
    assert output.loss_sum.item() == 0.25 + 2048.0 + 0.25
    assert gradient_NV.tolist() == [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]
