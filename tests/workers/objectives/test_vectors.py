"""The objectives against per-token values and gradients that were computed outside this repository."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.objectives.base import token_statistics
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.sed_sft import SelectivePenalty

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
CASES = VECTORS["cases"]
TOLERANCES = VECTORS["tolerances"]

IGNORED = -100
"""Label of a row that is not trained, in the vectors."""

pytestmark = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


def objective_of(params: dict[str, Any], name: str) -> CrossEntropy | SelectivePenalty:
    if name == "ce":
        return CrossEntropy()
    return SelectivePenalty(lambda_=params["lam"], top_k=params["k"], tau=float(params["tau"]))


def labelled(case: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """All logits as a leaf [rows, V], those of the label tokens [N, V], their labels [N]."""
    logits = torch.tensor(case["logits"], dtype=dtype, requires_grad=True)
    labels = torch.tensor(case["labels"])
    return logits, logits[labels != IGNORED], labels[labels != IGNORED]


@pytest.mark.parametrize("name", ["ce", "sed"])
def test_float64_agrees_to_1e_10(case: dict[str, Any], name: str) -> None:
    logits, logits_NV, labels_N = labelled(case, torch.float64)
    objective = objective_of(case["params"], name)
    output = objective(token_statistics(logits_NV, labels_N, top_k=objective.top_k))
    mean = output.loss_sum / len(labels_N)
    mean.backward()
    expected = case["expected"][name]
    assert mean.item() == pytest.approx(expected["mean"], abs=TOLERANCES["fp64"])
    torch.testing.assert_close(
        logits.grad, torch.tensor(expected["grad_of_mean"], dtype=torch.float64), rtol=0, atol=TOLERANCES["fp64"]
    )


@pytest.mark.parametrize("name", ["ce", "sed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_logits_are_computed_in_float32(case: dict[str, Any], name: str, dtype: torch.dtype) -> None:
    logits, logits_NV, labels_N = labelled(case, dtype)
    objective = objective_of(case["params"], name)
    output = objective(token_statistics(logits_NV, labels_N, top_k=objective.top_k))
    mean = output.loss_sum / len(labels_N)
    assert mean.dtype == torch.float32
    assert mean.item() == pytest.approx(case["expected"][name]["mean"], rel=TOLERANCES["fp32_loss_rel"])
    if dtype == torch.float32:
        mean.backward()
        expected = torch.tensor(case["expected"][name]["grad_of_mean"])
        torch.testing.assert_close(logits.grad, expected, rtol=0, atol=TOLERANCES["fp32_grad_abs"])


def test_metric_sums_are_those_of_the_rows(case: dict[str, Any]) -> None:
    _, logits_NV, labels_N = labelled(case, torch.float64)
    objective = objective_of(case["params"], "sed")
    sums = objective(token_statistics(logits_NV, labels_N, top_k=objective.top_k)).metric_sums
    rows = [row for row in case["expected"]["rows"] if row is not None]
    expected = {
        "sft/sed/penalised_fraction": math.fsum(row["mask"] for row in rows),
        "sft/sed/mean_weight": math.fsum(row["weight"] for row in rows),
        "sft/sed/extra_loss": case["params"]["lam"] * math.fsum(row["mask"] * row["penalty"] for row in rows),
        "sft/entropy": math.fsum(row["entropy"] for row in rows),
        "sft/nll": math.fsum(case["expected"]["ce"]["per_token"]),
        "sft/loss": math.fsum(case["expected"]["sed"]["per_token"]),
    }
    assert {name: sums[name].item() for name in expected} == pytest.approx(expected, abs=TOLERANCES["fp64"])
