"""The reference of reinforcement learning: the trained weights as the stage began with them, or the base model."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from service.contract.stages import RlSpec
from workers.actors.adapters import Adapters
from workers.actors.policy_model import PolicyModel


class Reference(Protocol):
    """What a policy is compared with."""

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold of it."""

    def in_place(self) -> AbstractContextManager[None]:
        """The model is the reference within; no gradient may be pending."""


def build_reference(policy: PolicyModel, spec: RlSpec) -> Reference | None:
    """That of a stage which begins with the weights that the policy has now; None where it has none."""
    if not spec.beta:
        return None
    if spec.kl_reference == "start":
        return FrozenWeights(policy.parameters())
    assert policy.adapters is not None, "the specification has adapters"
    return WithoutAdapters(policy.adapters)


class WithoutAdapters:
    """The base model: the adapters' factor is 0 for a pass, on every rank, so there is nothing to hold or to store."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters

    def state(self) -> Mapping[str, Tensor]:
        """Nothing: the base model does not change."""
        return {}

    def in_place(self) -> AbstractContextManager[None]:
        """The model is the reference within."""
        return self._adapters.off()


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
