from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.contract.spec import LoraSpec, ModelSpec
from tests.workers.architectures import CONFIGS, make_folder
from tests.workers.tiny_model import assert_same_weights
from workers.actors.activation_checkpointing import checkpoint_activations
from workers.actors.policy_model import PolicyModel
from workers.config_error import ConfigError
from workers.data.token_sequence import TokenSequence
from workers.objectives.build import row_loss
from workers.objectives.cross_entropy import CrossEntropy

ROWS = [
    TokenSequence(prompt_token_ids=tuple(range(3, 3 + length)), completion_token_ids=(8, 9, 1)) for length in (1, 9, 20)
]


def gradients(folder: Path, *, packing: bool = False, **changes: Any) -> tuple[dict[str, Tensor], int]:
    """Of one micro-batch, and the bytes that the forward pass kept for the backward pass."""
    policy = PolicyModel(ModelSpec(path=str(folder), **changes), torch.device("cpu"))
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = policy.loss(ROWS, row_loss(CrossEntropy()), packing=packing)
    torch.autograd.backward(output.loss_sum)
    return {name: weight.grad for name, weight in policy.model.named_parameters() if weight.grad is not None}, kept


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_gradient_is_the_same_bit_for_bit_and_less_is_kept(name: str, packing: bool, tmp_path: Path) -> None:
    folder = make_folder(name, tmp_path / "base")
    plain, kept = gradients(folder, packing=packing)
    again, kept_with = gradients(folder, packing=packing, gradient_checkpointing=True)
    assert_same_weights(again, plain)
    assert kept_with < 0.25 * kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_get_the_same_gradient_too(model_folder: Path, dtype: str) -> None:
    settings: dict[str, Any] = {"dtype": dtype, "lora": LoraSpec(rank=2)}
    plain, _ = gradients(model_folder, **settings)
    assert plain
    assert_same_weights(gradients(model_folder, gradient_checkpointing=True, **settings)[0], plain)


def test_a_model_that_shows_no_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a folder \(Linear\).*gradient_checkpointing"):
        checkpoint_activations(torch.nn.Linear(2, 2), "a folder")
