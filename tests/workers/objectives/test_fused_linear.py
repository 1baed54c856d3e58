"""Every objective through the fused sweep: against vectors, against a slow float64 oracle, and under any cut."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.objectives.base import (
    IGNORED,
    ObjectiveOutput,
    StatisticsNeeds,
    SupervisedObjective,
    TokenStatistics,
    token_statistics,
)
from workers.objectives.build import row_loss
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.fused_linear import fused_loss, fused_statistics
from workers.objectives.gem import Gem
from workers.objectives.output_head import OutputHead
from workers.objectives.power_family import Deft, DynamicFineTuning, Power
from workers.objectives.reweighted import EntropyAdaptive, Focal, ProbabilityFilter
from workers.objectives.sed_sft import SelectivePenalty
from workers.objectives.smoothed import EntropyRegularised, LabelSmoothing
from workers.objectives.step_metrics import token_means

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
TOLERANCES = VECTORS["tolerances"]

OBJECTIVES: dict[str, SupervisedObjective] = {
    "ce": CrossEntropy(),
    "sed": SelectivePenalty(lambda_=1.0, top_k=2, tau=0.8),
    "sed k=3": SelectivePenalty(lambda_=0.5, top_k=3, tau=0.9),
    "gem linear": Gem(h="linear", beta=0.7),
    "gem logsigmoid": Gem(h="logsigmoid", beta=0.7),
    "dft": DynamicFineTuning(),
    "power": Power(q=0.5),
    "deft": Deft(),
    "eaft": EntropyAdaptive(alpha=0.7, top_k=4),
    "profit": ProbabilityFilter(threshold=0.1),
    "focal": Focal(gamma=2.0),
    "focal root": Focal(gamma=0.5),
    "label smoothing": LabelSmoothing(epsilon=0.1),
    "entropy-regularised": EntropyRegularised(lambda_=0.05),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)
seeds = st.integers(0, 2**31)


def vector_objective(name: str, params: dict[str, Any]) -> SupervisedObjective:
    """The objective that a vector's name stands for."""
    made: dict[str, SupervisedObjective] = {
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


def of_logits(
    objective: SupervisedObjective, logits_NV: Tensor, labels_N: Tensor, **options: Any
) -> tuple[ObjectiveOutput, Tensor]:
    """The objective of given logits, by way of an output layer that changes nothing, and its gradient by them."""
    hidden_NV = logits_NV.detach().clone().requires_grad_()
    head = OutputHead(weight_VH=torch.eye(logits_NV.shape[1], dtype=logits_NV.dtype))
    output = fused_loss(hidden_NV, head, labels_N, row_loss(objective), needs=objective.needs, **options)
    output.loss_sum.backward()
    assert hidden_NV.grad is not None
    return output, hidden_NV.grad


def random_layer(seed: int, num_rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states [N, 5], weight [7, 5], bias [7], labels [N]."""
    generator = torch.Generator().manual_seed(seed)
    hidden_NH = torch.randn(num_rows, 5, dtype=dtype, generator=generator).requires_grad_()
    weight_VH = torch.randn(7, 5, dtype=dtype, generator=generator).requires_grad_()
    bias_V = torch.randn(7, dtype=dtype, generator=generator).requires_grad_()
    return hidden_NH, weight_VH, bias_V, torch.randint(0, 7, (num_rows,), generator=generator)


def oracle_loss(name: str, logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Each token's loss as the papers write it, for autograd; surrogates stop gradients where the papers do."""
    logp = torch.log_softmax(logits_NV, -1)
    p = logp.exp()
    logp_y = logp.gather(1, labels_N[:, None])[:, 0]
    p_y = logp_y.exp()
    ranked = p.detach().sort(-1, descending=True).values
    top4 = ranked[:, :4] / ranked[:, :4].sum(-1, keepdim=True)
    q = torch.softmax(logits_NV.detach() / 0.7, -1)
    c = q * torch.sigmoid(0.01 * (logits_NV - logits_NV.gather(1, labels_N[:, None]))).detach()
    a = p.detach().square().sum(-1)
    formulas: dict[str, Callable[[], Tensor]] = {
        "ce": lambda: -logp_y,
        "sed": lambda: -logp_y + (ranked[:, :2].sum(-1) < 0.8) * (p_y - 0.5) ** 2,
        "sed k=3": lambda: -logp_y + 0.5 * (ranked[:, :3].sum(-1) < 0.9) * (p_y - 0.5) ** 2,
        "gem linear": lambda: -logp_y + (q * logp).sum(-1),
        "gem logsigmoid": lambda: -(c * (logp_y[:, None] - logp)).sum(-1),
        "dft": lambda: -p_y.detach() * logp_y,
        "power": lambda: (1 - p_y**0.5) / 0.5,
        "deft": lambda: -(p_y**a - 1) / (a + 1e-6),
        "eaft": lambda: -((-(top4 * top4.log()).sum(-1) / math.log(4)) ** 0.7) * logp_y,
        "profit": lambda: (p_y.detach() >= 0.1) * -logp_y,
        "focal": lambda: -((1 - p_y) ** 2) * logp_y,
        "focal root": lambda: -((1 - p_y) ** 0.5) * logp_y,
        "label smoothing": lambda: -0.9 * logp_y - 0.1 * logp.mean(-1),
        "entropy-regularised": lambda: -logp_y + 0.05 * (p * logp).sum(-1),
    }
    return formulas[name]()


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
@given(seed=seeds, capped=st.booleans(), scale=st.sampled_from([1.0, 0.5]), temperature=st.sampled_from([1.0, 0.7]))
def test_gradients_of_the_whole_layer_are_those_of_the_oracle(
    name: str, seed: int, capped: bool, scale: float, temperature: float
) -> None:
    hidden_NH, weight_VH, bias_V, labels_N = random_layer(seed, 6)
    objective, softcap = OBJECTIVES[name], 2.0 if capped else None
    head = OutputHead(weight_VH=weight_VH, bias_V=bias_V, scale=scale, softcap=softcap)
    output = fused_loss(
        hidden_NH, head, labels_N, row_loss(objective), needs=objective.needs, temperature=temperature, chunk_tokens=4
    )
    ours = torch.autograd.grad(output.loss_sum * 0.25, [hidden_NH, weight_VH, bias_V])
    logits_NV = (hidden_NH @ weight_VH.T + bias_V) * scale
    logits_NV = 2.0 * torch.tanh(logits_NV / 2.0) if capped else logits_NV
    expected = oracle_loss(name, logits_NV / temperature, labels_N).sum()
    theirs = torch.autograd.grad(expected * 0.25, [hidden_NH, weight_VH, bias_V])
    assert output.loss_sum.item() == pytest.approx(expected.item(), abs=1e-10)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@every_objective
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_chunk_size_changes_rounding_only(name: str, dtype: torch.dtype, tolerance: float) -> None:
    objective, results = OBJECTIVES[name], []
    for chunk_tokens in (1, 3, 50):
        hidden_NH, weight_VH, bias_V, labels_N = random_layer(5, 11, dtype)
        head = OutputHead(weight_VH=weight_VH, bias_V=bias_V)
        output = fused_loss(
            hidden_NH, head, labels_N, row_loss(objective), needs=objective.needs, chunk_tokens=chunk_tokens
        )
        output.loss_sum.backward()
        results.append((output, [hidden_NH.grad, weight_VH.grad, bias_V.grad]))
    for output, gradients in results[1:]:
        assert token_means([output], 11) == pytest.approx(token_means([results[0][0]], 11), abs=tolerance)
        for one, other in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@every_objective
@settings(max_examples=10, deadline=None)
@given(seed=seeds, cuts=st.lists(st.integers(1, 11), max_size=4), chunk_tokens=st.integers(1, 12))
def test_micro_batches_add_up_to_the_whole(name: str, seed: int, cuts: list[int], chunk_tokens: int) -> None:
    objective = OBJECTIVES[name]
    hidden_NH, weight_VH, bias_V, labels_N = random_layer(seed, 12)
    head = OutputHead(weight_VH=weight_VH, bias_V=bias_V)

    def outputs(bounds: list[int], **options: Any) -> tuple[list[ObjectiveOutput], list[Tensor]]:
        parts = [
            fused_loss(
                hidden_NH[low:high], head, labels_N[low:high], row_loss(objective), needs=objective.needs, **options
            )
            for low, high in pairwise(bounds)
        ]
        loss = torch.stack([part.loss_sum / 12 for part in parts]).sum()
        return parts, list(torch.autograd.grad(loss, [hidden_NH, weight_VH, bias_V]))

    whole, expected = outputs([0, 12])
    parts, gradients = outputs([0, *sorted(set(cuts)), 12], chunk_tokens=chunk_tokens)
    assert token_means(parts, 12) == pytest.approx(token_means(whole, 12), abs=1e-10)
    for one, other in zip(gradients, expected, strict=True):
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
    ],
    ids=str,
)
def test_objectives_that_meet_have_the_same_gradient(one: SupervisedObjective, other: SupervisedObjective) -> None:
    hidden_NH, weight_VH, _, labels_N = random_layer(3, 20)
    logits_NV = 3.0 * hidden_NH.detach() @ weight_VH.detach().T
    _, first = of_logits(one, logits_NV, labels_N)
    _, second = of_logits(other, logits_NV, labels_N)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-7 if one == Power(q=1e-9) else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("twin", [{"lambda_": 0.0, "tau": math.inf}, {"lambda_": 1.0, "tau": 0.0}])
def test_sed_without_a_penalty_is_cross_entropy_bit_for_bit(dtype: torch.dtype, twin: dict[str, float]) -> None:
    results = []
    for objective in (CrossEntropy(), SelectivePenalty(top_k=2, **twin)):
        hidden_NH, weight_VH, _, labels_N = random_layer(8, 9, dtype)
        head = OutputHead(weight_VH=weight_VH)
        output = fused_loss(hidden_NH, head, labels_N, row_loss(objective), needs=objective.needs, chunk_tokens=4)
        (output.loss_sum / 9).backward()
        results.append((output.loss_sum.detach(), hidden_NH.grad, weight_VH.grad))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@every_objective
def test_extreme_logits_stay_finite(name: str) -> None:
    rows = [[1024.0, -1024.0, 0.0, 0.0, 3.0, 0.0, 0.0], [1024.0, -1024.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    rows += [[2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], [0.0, -176.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    labels_N = torch.tensor([1, 0, 0, 1])
    for dtype in (torch.float32, torch.float64):
        output, gradient_NV = of_logits(OBJECTIVES[name], torch.tensor(rows, dtype=dtype), labels_N)
        assert math.isfinite(output.loss_sum.item())
        assert all(math.isfinite(value) for value in token_means([output], 4).values())
        assert bool(gradient_NV.isfinite().all())


def test_a_certain_label_has_no_loss_and_an_impossible_one_keeps_the_gradient_of_cross_entropy() -> None:
    logits_NV = torch.tensor([[1024.0, -1024.0, 0.0], [1024.0, -1024.0, 0.0]], dtype=torch.float64)
    output, gradient_NV = of_logits(
        SelectivePenalty(lambda_=1.0, top_k=2, tau=math.inf), logits_NV, torch.tensor([0, 1])
    )
    assert output.loss_sum.item() == 0.25 + 2048.0 + 0.25
    assert gradient_NV.tolist() == [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]


@pytest.mark.parametrize("top_k", [1, 2, 3, 7])
def test_statistics_are_those_of_the_logits(top_k: int) -> None:
    hidden_NH, weight_VH, bias_V, labels_N = random_layer(2, 12)
    head = OutputHead(weight_VH=weight_VH, bias_V=bias_V)
    needs = StatisticsNeeds(top_k=top_k, collision=True)
    ours = fused_statistics(hidden_NH, head, labels_N, needs=needs, temperature=0.6, chunk_tokens=5)
    logits_NV = hidden_NH @ weight_VH.T + bias_V
    theirs = token_statistics(logits_NV, labels_N, temperature=0.6, top_k=top_k, collision=True)
    for name in ("nll_N", "entropy_N", "is_likeliest_N", "topk_mass_N", "collision_N"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-12)
    assert not ours.nll_N.requires_grad


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_of_equal_logits_the_lowest_id_is_the_likeliest_and_all_count_for_the_mass(top_k: int) -> None:
    logits_NV = torch.tensor([[1.0, 1.0, 0.0, 1.0]]).expand(4, 4)
    head = OutputHead(weight_VH=torch.eye(4))
    made = fused_statistics(logits_NV, head, torch.arange(4), needs=StatisticsNeeds(top_k=top_k))
    assert made.is_likeliest_N.tolist() == [True, False, False, False]
    assert made.topk_mass_N is not None
    assert made.topk_mass_N.tolist() == pytest.approx([top_k * math.e / (3 * math.e + 1)] * 4)


@every_objective
def test_a_bias_of_minus_infinity_takes_a_row_out(name: str) -> None:
    if name == "label smoothing":
        return  # Asks for probability on every row.
    hidden_NH, weight_VH, bias_V, labels_N = random_layer(4, 8)
    labels_N, objective = labels_N.clamp_max(4), OBJECTIVES[name]
    gone_V = torch.tensor([0.0] * 5 + [-math.inf] * 2, dtype=torch.float64)
    without = OutputHead(weight_VH=weight_VH, bias_V=bias_V + gone_V)
    cut = OutputHead(weight_VH=weight_VH[:5], bias_V=bias_V[:5])
    gradients = []
    for head in (without, cut):
        loss = fused_loss(hidden_NH, head, labels_N, row_loss(objective), needs=objective.needs).loss_sum
        gradients.append((loss.detach(), *torch.autograd.grad(loss, [hidden_NH, weight_VH, bias_V])))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert not gradients[0][2][5:].any()


def test_tied_embeddings_gather_both_gradients() -> None:
    _, weight_VH, _, labels_N = random_layer(6, 8)
    inputs_N = torch.arange(8) % 7
    loss = fused_loss(
        weight_VH[inputs_N],
        OutputHead(weight_VH=weight_VH),
        labels_N,
        row_loss(CrossEntropy()),
        needs=StatisticsNeeds(),
    ).loss_sum
    (ours,) = torch.autograd.grad(loss, weight_VH)
    expected = torch.nn.functional.cross_entropy(weight_VH[inputs_N] @ weight_VH.T, labels_N, reduction="sum")
    torch.testing.assert_close(ours, torch.autograd.grad(expected, weight_VH)[0], rtol=0, atol=1e-12)


def test_bfloat16_products_keep_float32_statistics_and_gradients() -> None:
    hidden_NH, weight_VH, _, labels_N = random_layer(7, 16, torch.float32)
    head = OutputHead(weight_VH=weight_VH, dtype=torch.bfloat16)
    output = fused_loss(hidden_NH, head, labels_N, row_loss(CrossEntropy()), needs=StatisticsNeeds())
    output.loss_sum.backward()
    assert output.loss_sum.dtype == torch.float32
    assert weight_VH.grad is not None and weight_VH.grad.dtype == torch.float32
    logits_NV = (hidden_NH.bfloat16() @ weight_VH.bfloat16().T).float()
    expected = torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum")
    assert output.loss_sum.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_loss_of_single_tokens_sees_their_place_in_the_batch() -> None:
    hidden_NH, weight_VH, _, labels_N = random_layer(9, 10)
    factors_N = torch.linspace(-1.0, 1.0, 10, dtype=torch.float64)

    def scaled(statistics: TokenStatistics, rows: slice) -> ObjectiveOutput:
        return ObjectiveOutput(loss_sum=(factors_N[rows] * statistics.nll_N).sum(), metric_sums={})

    head = OutputHead(weight_VH=weight_VH)
    fused_loss(hidden_NH, head, labels_N, scaled, needs=StatisticsNeeds(), chunk_tokens=3).loss_sum.backward()
    nll_N = torch.nn.functional.cross_entropy(hidden_NH @ weight_VH.T, labels_N, reduction="none")
    (expected,) = torch.autograd.grad((factors_N * nll_N).sum(), weight_VH)
    torch.testing.assert_close(weight_VH.grad, expected, rtol=0, atol=1e-12)


def test_the_gradients_are_handed_out_once() -> None:
    hidden_NH, weight_VH, _, labels_N = random_layer(1, 4)
    loss = fused_loss(
        hidden_NH, OutputHead(weight_VH=weight_VH), labels_N, row_loss(CrossEntropy()), needs=StatisticsNeeds()
    ).loss_sum
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already handed out"):
        loss.backward()


def test_without_gradients_nothing_is_attached() -> None:
    hidden_NH, weight_VH, _, labels_N = random_layer(1, 4)
    with torch.no_grad():
        output = fused_loss(
            hidden_NH, OutputHead(weight_VH=weight_VH), labels_N, row_loss(CrossEntropy()), needs=StatisticsNeeds()
        )
    assert not output.loss_sum.requires_grad
