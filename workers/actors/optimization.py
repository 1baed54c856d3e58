"""AdamW, the learning rate's course, and the guarded step that both stages take."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from service.contract.stages import OptimizerSpec
from workers.actors.trainer_results import NonFinite

DECAY_RATIO = 0.1
"""Of the schedule wsd where the specification gives none."""


def learning_rate_at(spec: OptimizerSpec, step: int, num_steps: int) -> float:
    """The learning rate of a step (from 1).

    It rises linearly over the first `warmup_steps`, or `warmup_ratio * num_steps` rounded up, the last of which has the
    full rate. Then all but constant fall from the full rate, wsd only in its last `decay_ratio * num_steps`, so that 0
    is reached as the last planned step ends: that step itself still trains.
    """
    num_warmup = math.ceil(spec.warmup_ratio * num_steps) if spec.warmup_steps is None else spec.warmup_steps
    if step <= num_warmup:
        return spec.learning_rate * step / num_warmup
    num_falling = num_steps - num_warmup
    if spec.lr_schedule == "wsd":
        num_falling = min(num_falling, math.ceil((spec.decay_ratio or DECAY_RATIO) * num_steps))
    fallen = max(0.0, 1.0 - (num_steps - step + 1) / num_falling)
    match spec.lr_schedule:
        case "constant":
            return spec.learning_rate
        case "linear" | "wsd":
            return spec.learning_rate * (1.0 - fallen)
        case "cosine":
            return spec.learning_rate * 0.5 * (1.0 + math.cos(math.pi * fallen))


class Optimization:
    """AdamW over a model's parameters. Weight decay acts on matrices only, not on biases and norms."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], spec: OptimizerSpec, num_steps: int) -> None:
        self._named = dict(parameters)
        self._parameters = list(parameters.values())
        self._spec = spec
        self._num_steps = num_steps
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self._parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
                {"params": [p for p in self._parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=spec.learning_rate,
            betas=(spec.adam_beta1, spec.adam_beta2),
            eps=spec.adam_epsilon,
            fused=True,
        )
        self._optimizer.zero_grad(set_to_none=True)

    def apply(self, step: int, loss: Tensor, what: str) -> tuple[float, float]:
        """Clip the gathered gradients, update the weights and clear the gradients.

        `loss` is the step's detached loss and `what` names it in the error. Returns (learning rate, gradient norm
        before clipping). Raises NonFinite, with the weights as they were, if loss or norm is NaN or infinite.
        """
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._spec.max_grad_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        loss_value, norm_value = torch.stack([loss.to(norm.device).double(), norm.double()]).tolist()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            self._optimizer.zero_grad(set_to_none=True)
            raise NonFinite(
                f"{what} step {step}: loss {loss_value}, gradient norm {norm_value}; the weights are those before the "
                "step. Lower the learning rate or look for broken samples"
            )
        learning_rate = learning_rate_at(self._spec, step, self._num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return learning_rate, norm_value

    def state(self) -> dict[str, Tensor]:
        """Its tensors by parameter and kind, for a checkpoint to be written from or read into.

        Learning rate, betas and the like are the specification's. Before the first step it is what AdamW begins with.
        """
        for parameter in self._parameters:
            if parameter not in self._optimizer.state:
                self._optimizer.state[parameter] = _first_state(parameter)
        return {
            f"{name}.{kind}": value
            for name, parameter in self._named.items()
            for kind, value in self._optimizer.state[parameter].items()
        }


def _first_state(parameter: torch.nn.Parameter) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False),
    }
