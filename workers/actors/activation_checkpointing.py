"""Activation checkpointing: a layer keeps only its inputs and computes the rest again in the backward pass.

    forward    x ─> layer 1 ─> x ─> layer 2 ─> x          only these x stay in memory
    backward                        layer 2 again, then its gradient; layer 1 again, then its gradient

transformers has the same, but only in its training mode, which also turns dropout on. Without dropout nothing is random
in a layer, so the second pass equals the first bit for bit and no generator has to be rewound.
"""

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from workers.config_error import ConfigError


def checkpoint_activations(model: torch.nn.Module, folder: str) -> None:
    """Let every layer of a loaded model do so, where gradients are wanted.

    Works inside of FSDP: a layer's weights are gathered around both passes. Raises ConfigError, naming `folder`, if the
    model shows no layers.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"the model in {folder} ({type(model).__name__}) does not say which of its modules are layers, so their "
            "activations cannot be checkpointed; set model.gradient_checkpointing to false"
        )
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
