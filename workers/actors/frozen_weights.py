"""The reference of reinforcement learning: the trained weights as the stage began with them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class FrozenWeights:
    """A second set of the weights that are trained, kept beside them and put in their place for a pass.

    It is divided among the ranks as they are and has their precision, so that a policy that has not moved yet has a
    divergence of exactly 0 from it. Beside adapters it holds adapters only: those that SFT has trained or, without SFT,
    new ones, with which the model is the base model. Checkpoints must hold it, since the weights that the stage began
    with are nowhere else.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Copies the weights as they are now."""
        self._trained = dict(parameters)
        self._frozen = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def state(self) -> dict[str, Tensor]:
        """Its tensors by parameter, for a checkpoint to be written from or read into."""
        return self._frozen

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model is the reference within; no gradient may be pending."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._trained.items():
            # In place, since FSDP holds on to the memory; one tensor at a time is held a third time.
            trained, frozen = _own_part(parameter), _own_part(self._frozen[name])
            held = trained.clone()
            trained.copy_(frozen)
            frozen.copy_(held)


def _own_part(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
