"""The receiving end of weight sync: runs in vLLM's worker processes and takes weights from a file or over NCCL.

One update, driven by vLLM's own calls, in each worker process:

    start_weight_update    layers go back to the checkpoint's layout, their loaders gather what arrives
    update_weights         a file is read, or tensors are received; each must find its place, and have its digest
    finish_weight_update   layers are packed again as kernels want them, tied ones too; none may have been left out

vLLM itself only logs what it could not place, so all checks raise. Nothing but vLLM imports this module.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferEngine
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferUpdateInfo
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from workers.actors.tensor_digest import tensor_digest
from workers.actors.vllm_layer_checks import layers_without_weights, not_tied, pack_again, spare_lookups

_NAMES_SHOWN = 5

NamedTensor = tuple[str, Tensor]


@dataclass
class WeightUpdate:
    """One of three payloads: a file, the tensors that come next over NCCL, or the digests of all that has come."""

    path: str | None = None
    names: list[str] = field(default_factory=list)
    dtype_names: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    with_digests: bool = False
    """Whether what comes now is to be hashed, because digests follow."""
    digests: dict[str, str] | None = None
    """SHA-256 by tensor: of the file's, or of all that came over NCCL."""


class SedrayWeightTransferEngine(WeightTransferEngine[NCCLWeightTransferInitInfo, WeightUpdate]):
    """Loads weights from a file that trainer and worker both see, or from the trainer's GPU."""

    init_info_cls = NCCLWeightTransferInitInfo
    update_info_cls = WeightUpdate

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._placed: set[tuple[str, tuple[int, ...]]] = set()
        """Names and shapes of tensors for which the model has shown to have a place."""
        self._received: dict[str, str] | None = None
        """Digests of the tensors of this update, if they are asked for."""
        self._nccl: NCCLWeightTransferEngine | None = None

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        """Join the trainer's NCCL group, and leave the one before. Files need none."""
        self.shutdown()
        # vLLM's own engine receives; in the place of its model it gets this engine, which looks at what comes first.
        self._nccl = NCCLWeightTransferEngine(self.config, self.vllm_config, self.device, self)
        self._nccl.init_transfer_engine(init_info)

    def start_weight_update(self) -> None:
        """Bring the layers back into the checkpoint's layout; on the CPU vLLM keeps packed copies only."""
        self._received = None
        if self.device.type == "cpu" and not self.model_config.hf_text_config.tie_word_embeddings:
            spare_lookups(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Take one payload. vLLM's own version waits for an accelerator, which there may not be."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: WeightUpdate) -> None:
        """Hand the tensors to the model. Raises ValueError naming those without a place or with another digest."""
        if update_info.with_digests:
            self._received = self._received or {}
        if update_info.path is not None:
            self._load_file(update_info.path)
        elif update_info.names:
            assert self._nccl is not None, "init_transfer_engine comes first"
            self._nccl.receive_weights(
                NCCLWeightTransferUpdateInfo(update_info.names, update_info.dtype_names, update_info.shapes)
            )
        if update_info.digests is not None:
            _require_digests(self._received or {}, update_info.digests)

    def load_weights(self, tensors: Iterable[NamedTensor]) -> None:
        """Place tensors in the model; what a receiver calls. Raises ValueError naming those without a place."""
        with disable_mtp_completeness_check():
            self._load([*tensors])

    def finish_weight_update(self) -> None:
        """Pack the layers again. Raises ValueError naming layers that received nothing and keep old weights."""
        waiting = layers_without_weights(self.model)
        finalize_layerwise_reload(self.model, self.model_config)
        left_out = not_tied(self.model, waiting)
        if left_out:
            raise ValueError(f"no weights came for {_some(left_out)}")
        for name in waiting:
            pack_again(self.model.get_submodule(name))

    def shutdown(self) -> None:
        """Leave the NCCL group, if there is one."""
        nccl, self._nccl = self._nccl, None
        if nccl is not None:
            nccl.shutdown()

    def _load_file(self, path: str) -> None:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Tensors are views of the file's memory: nothing is read before the model copies it.
            self._load([(name, file.get_tensor(name)) for name in file.keys()])  # noqa: SIM118 - not a mapping

    def _load(self, tensors: list[NamedTensor]) -> None:
        if self._received is not None:
            self._received |= {name: tensor_digest(tensor.cpu().contiguous()) for name, tensor in tensors}
        known = {(name, tuple(tensor.shape)) for name, tensor in tensors}
        if known <= self._placed:
            self.model.load_weights(tensors)
            return
        # Some models pass over what they don't know. One by one they give that away, at the price of a walk through
        # the whole model for each tensor; so only what has not been placed before is looked at so closely.
        unplaced = [name for name, tensor in tensors if not self.model.load_weights([(name, tensor)])]
        if unplaced:
            raise ValueError(f"the model has no place for {_some(unplaced)}")
        self._placed |= known


def _require_digests(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    other = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if other:
        raise ValueError(f"tensors arrived otherwise than the trainer sent them: {_some(other)}")


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:_NAMES_SHOWN])} ({len(names)} in all)"
