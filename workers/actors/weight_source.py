"""The trainer's weights as vLLM's trainer side reads them: first what will come, then the tensors themselves."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.actors.policy_model import PolicyModel
from workers.actors.tensor_digest import tensor_digest
from workers.actors.weight_export import leaving_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMeta:
    """As vLLM's `ParamMeta`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class PolicySource:
    """As vLLM's `WeightSource`. A pass is collective: all ranks go through it, the first one gets the tensors.

    Tensor by tensor where the checkpoint has the model's own. Where adapters are merged, or transformers keeps weights
    in another form than the checkpoint, the first rank holds a second copy of the whole model meanwhile.
    """

    def __init__(self, policy: PolicyModel) -> None:
        self._policy = policy
        self._pending: Iterator[tuple[str, Tensor]] = iter(())
        self.digests: dict[str, str] | None = None
        """Of what has been sent in this pass; None: nobody wants them."""

    def metadata(self) -> list[TensorMeta]:
        """What iterating gives, in its order, found without a gather."""
        shapes = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            for name, tensor in self._policy.unique_state().items()
        }
        leaving = leaving_weights(self._policy, shapes)
        return [
            TensorMeta(name=name, dtype=leaving.dtypes[name], shape=tuple(tensor.shape))
            for name, tensor in leaving.tensors.items()
        ]

    def begin(self, *, with_digests: bool) -> None:
        """A fresh pass, which the next iteration takes. All ranks begin it and must bring it to its end."""
        self.digests = {} if with_digests else None
        self._pending = self._sent() if self._policy.ranks.is_first else self._gathered()

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """What is left of the pass that has begun."""
        return self._pending

    def drain(self) -> None:
        """Do what is left of the pass, perhaps all of it, since the other ranks wait for it."""
        for _ in self._pending:
            pass

    def _sent(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._leaving():
            if self.digests is not None:
                self.digests[name] = tensor_digest(tensor.cpu().contiguous())
            yield name, tensor

    def _leaving(self) -> Iterator[tuple[str, Tensor]]:
        if [meta.name for meta in self.metadata()] == list(self._policy.unique_state()) and not self._policy.adapters:
            for name, tensor in self._gathered():
                yield name, tensor.to(self._policy.dtype) if tensor.is_floating_point() else tensor
            return
        leaving = leaving_weights(self._policy, dict(self._gathered()))
        for name, tensor in leaving.tensors.items():
            yield name, tensor.to(leaving.dtypes[name])

    def _gathered(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._policy.whole_tensors()
