"""The receiving end of weight sync: runs in vLLM's worker processes and loads a safetensors file.

One update, driven by vLLM's own calls, in each worker process:

    start_weight_update    layers go back to the checkpoint's layout, their loaders gather what arrives
    update_weights         the file is read, tensor by tensor; each must find its place
    finish_weight_update   layers are packed again as kernels want them, tied ones too; none may have been left out

vLLM itself only logs what it could not place, so both checks raise. Nothing but vLLM imports this module.
"""

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import WeightTransferEngine
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

_NAMES_SHOWN = 5


@dataclass
class SharedMemoryInit:
    """Nothing to agree on beforehand."""


@dataclass
class SharedMemoryUpdate:
    """One update's payload."""

    path: str


class SharedMemoryWeightTransferEngine(WeightTransferEngine[SharedMemoryInit, SharedMemoryUpdate]):
    """Loads weights from a file that trainer and worker both see."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        """There is no connection to set up."""

    def start_weight_update(self) -> None:
        """Bring the layers back into the checkpoint's layout; on the CPU vLLM keeps packed copies only."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one file. vLLM's own version waits for an accelerator, which there may not be."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        """Hand the tensors to the model one by one. Raises ValueError naming those that found no place."""
        unplaced = []
        with safe_open(update_info.path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if not self.model.load_weights([(name, file.get_tensor(name))]):
                    unplaced.append(name)
        if unplaced:
            raise ValueError(f"the model has no place for {_some(unplaced)}")

    def finish_weight_update(self) -> None:
        """Pack the layers again. Raises ValueError naming layers that received nothing and keep old weights."""
        waiting = _layers_without_weights(self.model)
        finalize_layerwise_reload(self.model, self.model_config)
        left_out = _not_tied(self.model, waiting)
        if left_out:
            raise ValueError(f"no weights came for {_some(left_out)}")
        for name in waiting:
            _pack_again(self.model.get_submodule(name))

    def shutdown(self) -> None:
        """There is nothing to release."""


def _layers_without_weights(model: torch.nn.Module) -> dict[str, set[int]]:
    """Layers that got none of the parameters they wait for: name to the addresses of their old parameters."""
    layers = {}
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        waits = info.can_load() and not info.load_numel and not is_deferred_attention_layer(layer)
        if waits and info.kernel_tensors is not None and info.kernel_tensors[0]:
            layers[name] = {parameter.data_ptr() for parameter in info.kernel_tensors[0].values()}
    return layers


def _not_tied(model: torch.nn.Module, waiting: dict[str, set[int]]) -> list[str]:
    """Those of the waiting layers whose parameters aren't another layer's too, as a tied output layer's are.

    Address 0 stands for a weight that was dropped after packing, which says nothing about being shared.
    """
    loaded = {
        parameter.data_ptr()
        for name, layer in model.named_modules()
        if name not in waiting
        for parameter in layer.parameters(recurse=False)
    } - {0}
    return [name for name, addresses in waiting.items() if not addresses <= loaded]


def _pack_again(tied_layer: torch.nn.Module) -> None:
    """Let a tied layer see its new weights.

    A tied output layer's parameter is the embedding's, which has been loaded; but on the CPU the layer computes with a
    packed copy of its own, which vLLM's reload leaves as it was: every token would be drawn from the new model through
    the old output layer, without a word in the log.
    """
    method = getattr(tied_layer, "quant_method", None)
    if isinstance(method, QuantizeMethodBase):
        method.process_weights_after_loading(tied_layer)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:_NAMES_SHOWN])} ({len(names)} in all)"
