"""What vLLM's reload of weights leaves unsaid or does in vain: layers that received nothing, packed copies that stayed
old, and packed copies that nobody uses.

Nothing but our weight transfer engine imports this module, within vLLM's worker processes.
"""

import torch
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info


def layers_without_weights(model: torch.nn.Module) -> dict[str, set[int]]:
    """Layers that got none of the parameters they wait for: name to the addresses of their old parameters."""
    layers = {}
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        waits = info.can_load() and not info.load_numel and not is_deferred_attention_layer(layer)
        if waits and info.kernel_tensors is not None and info.kernel_tensors[0]:
            layers[name] = {parameter.data_ptr() for parameter in info.kernel_tensors[0].values()}
    return layers


def not_tied(model: torch.nn.Module, waiting: dict[str, set[int]]) -> list[str]:
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


def pack_again(tied_layer: torch.nn.Module) -> None:
    """Let a tied layer see its new weights.

    A tied output layer's parameter is the embedding's, which has been loaded; but on the CPU the layer computes with a
    packed copy of its own, which vLLM's reload leaves as it was: every token would be drawn from the new model through
    the old output layer, without a word in the log.
    """
    method = getattr(tied_layer, "quant_method", None)
    if isinstance(method, QuantizeMethodBase):
        method.process_weights_after_loading(tied_layer)


class LookupMethod(UnquantizedEmbeddingMethod):
    """An embedding that is looked up and never multiplied with."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """On the CPU vLLM would pack it for products, as the output layer: half the time that an update takes."""


def spare_lookups(model: torch.nn.Module) -> None:
    """Let the embeddings of a model whose output layer is another one be left as they come.

    Only for such a model: where the two are tied, either one may be the output layer.
    """
    for layer in model.modules():
        # Not its subclass, which is the output layer.
        if type(layer) is VocabParallelEmbedding and type(layer.quant_method) is UnquantizedEmbeddingMethod:
            layer.quant_method = LookupMethod()
            layer.__dict__.pop("cpu_linear", None)
