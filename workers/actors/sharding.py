"""A model's weights over several ranks, by FSDP2: every rank holds a part of each and gathers them layer by layer.

The layers of the body are gathered one at a time. What is left (embeddings, last norm, output layer) is gathered
together at the root, because the fused loss reads the output layer's weight and that may be the embeddings' too.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from workers.actors.rank_group import RankGroup

Result = TypeVar("Result")


class GatheredModel(torch.nn.Module):
    """A model around a computation: while `forward` runs it, the root's weights are whole on every rank.

    FSDP works through a module's forward and backward, so the loss must be made within: gradients then reach the
    output layer on the same way as all others.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Result]) -> Result:
        """What `compute` gives. A differentiable tensor must stand in the result itself or in a tuple, where FSDP's
        hooks can find it."""
        return compute()

    def release(self) -> None:
        """Let go of the root's whole weights; after a forward pass without a backward pass nobody else would."""
        if isinstance(self, FSDPModule):
            self.reshard()


def shard(root: GatheredModel, ranks: RankGroup, dtype: torch.dtype) -> None:
    """Replace the weights of a model, whole and equal on all ranks, by this rank's part.

    Weights and optimizer stay float32, and so do the sums of gradients over ranks. Layers are gathered in `dtype`, that
    of their products under autocast; what runs between them stays float32, so that bfloat16 means on several ranks what
    it means on one. Gradients are added up over the ranks, not averaged: each rank has divided its loss by the label
    tokens of all.
    """
    own = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in _layers(root.model):
        in_dtype = own if dtype == torch.float32 else replace(own, param_dtype=dtype)
        fully_shard(layer, mesh=ranks.mesh, mp_policy=in_dtype)
    # Kept between forward and backward: the backward pass begins with what the forward pass ended with.
    fully_shard(root, mesh=ranks.mesh, mp_policy=own, reshard_after_forward=False)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            # Experts that only some ranks' tokens reach must be reduced by all.
            module.set_reduce_scatter_unused_params(True, recurse=False)


def _layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The body's decoder layers: what transformers says must not be split. None: all is gathered at the root."""
    names = set(model._no_split_modules or ())
    layers: list[torch.nn.Module] = []
    inside: set[torch.nn.Module] = set()
    for module in model.modules():
        if type(module).__name__ in names and module not in inside:
            layers.append(module)
            inside.update(module.modules())
    return layers
