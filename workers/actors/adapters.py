"""Low-rank adapters (LoRA, arXiv 2106.09685), through peft: small trained matrices beside frozen linear layers.

    y = W x + (alpha / rank) B A x        A: [rank, in], random at first; B: [out, rank], 0 at first; W: frozen

In the module tree a layer `q_proj` becomes a layer around itself; names of its tensors, by example:

    trainer                              merged           file of the adapter
    q_proj.base_layer.weight (frozen)    q_proj.weight    -
    q_proj.lora_A.default.weight         in it            base_model.model.q_proj.lora_A.weight
    q_proj.lora_B.default.weight         in it            base_model.model.q_proj.lora_B.weight

Adapters are float32 whatever the dtype of the weights beside them. The experts of a mixture are stacked matrices and no
linear layers: they stay as they are.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from service.contract.spec import LoraSpec
from workers.config_error import ConfigError

_BASE = ".base_layer"
_NAME = "default"
_A, _B = f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"


class Adapters:
    """The adapters of one model."""

    def __init__(self, model: PreTrainedModel, spec: LoraSpec, folder: str, *, seed: int) -> None:
        """Put adapters beside the linear layers that `spec` wants and freeze all else.

        The same seed gives the same adapters, on every rank. Raises ConfigError, naming `folder`, for layers that the
        model does not have.
        """
        self._config = LoraConfig(
            task_type="CAUSAL_LM",
            base_model_name_or_path=folder,
            r=spec.rank,
            lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft divides it and takes any number
            lora_dropout=0.0,
            target_modules=_target_names(model, spec, folder),
            # GPT-2 keeps its matrices the other way round.
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(self._config, model)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert name.endswith((_A, _B)), name
                parameter.data = parameter.data.float()
        self._layers = [module for module in model.modules() if isinstance(module, LoraLayer)]

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model as it is without adapters. Their factor becomes 0: peft's own switch would also freeze them."""
        for layer in self._layers:
            layer.set_scale(_NAME, 0.0)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.set_scale(_NAME, 1.0)

    def merged(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of the model, whole tensors, as that of a model without adapters, which computes the same."""
        scale = self._config.lora_alpha / self._config.r
        merged = {}
        for name, tensor in state.items():
            if name.endswith((_A, _B)):
                continue
            layer, is_base, _ = name.partition(_BASE)
            if is_base and layer + _A in state and name.endswith(".weight"):
                product = state[layer + _B] @ state[layer + _A] * scale
                product = product.T if self._config.fan_in_fan_out else product
                # Added in the adapters' precision and rounded at once: no float32 copy of a whole bfloat16 model.
                tensor = (tensor.to(product.dtype) + product).to(tensor.dtype)
            merged[name.replace(_BASE, "")] = tensor
        return merged

    def save(self, state: Mapping[str, Tensor], folder: Path) -> None:
        """Write the adapters of a state, whole tensors, as a folder that `PeftModel.from_pretrained` reads."""
        folder.mkdir()
        tensors = {
            f"base_model.model.{name.replace('.default.', '.')}": tensor.to(device="cpu", copy=True).contiguous()
            for name, tensor in state.items()
            if name.endswith((_A, _B))
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        self._config.save_pretrained(str(folder))


def _target_names(model: PreTrainedModel, spec: LoraSpec, folder: str) -> list[str]:
    """What peft shall look for at the end of a layer's name, sorted."""
    output = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}
    inner = [name for name, module in linear.items() if module is not output]
    short_names = sorted({name.rpartition(".")[2] for name in inner})
    if spec.target_modules == "all-linear":
        return short_names
    for target in spec.target_modules:
        if any(f".{name}".endswith(f".{target}") for name in inner):
            continue
        if any(f".{name}".endswith(f".{target}") for name in linear):
            raise ConfigError(
                f"model.lora.target_modules: {target!r} is the output layer, which is not adapted; leave it out"
            )
        near = get_close_matches(target, short_names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"its linear layers are {', '.join(short_names)}"
        raise ConfigError(f"model.lora.target_modules: the model in {folder} has no linear layer {target!r}; {hint}")
    return sorted(set(spec.target_modules))
