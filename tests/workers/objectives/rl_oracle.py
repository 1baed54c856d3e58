"""The loss of reinforcement learning as papers and other programs write it: float64, all logits, padded matrices.

Dims: S sequences, T their longest completion. Tokens beyond a sequence's own are masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from service.contract.stages import RlSpec
from tests.workers.objectives.oracle import Layer, logits_of, random_layer
from tests.workers.tiny_model import make_rl_spec
from workers.actors.rl_step_data import MicroBatchLoss, StepData
from workers.objectives.base import ObjectiveOutput
from workers.objectives.build import build_policy_objective
from workers.objectives.fused_linear import fused_loss
from workers.rollouts import TrainingSample

LENGTHS = [3, 1, 5, 2, 4, 4]
SEQUENCES = range(len(LENGTHS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An update's tokens before the output layer, and what is known of them."""

    spec: RlSpec
    layer: Layer
    data: StepData


def make_case(*, spread: float = 0.6, masked: Sequence[int] = (), softcap: float | None = None, **changes: Any) -> Case:
    """Six completions whose old, sampled and reference log-probs lie around those of the output layer."""
    spec = make_rl_spec(num_prompts_per_step=3, num_generations=2, **changes)
    layer = random_layer(7, sum(LENGTHS), softcap=softcap)
    generator = torch.Generator().manual_seed(3)
    samples = [
        TrainingSample(
            prompt_token_ids=(3,),
            completion_token_ids=(4,) * length,
            rollout_logprobs=(-1.0,) * length,
            advantage=[1.0, -1.0, 0.5, -2.0, 0.0, 1.5][index],
            is_trained=index not in masked,
        )
        for index, length in enumerate(LENGTHS)
    ]
    logp_N = logprobs_of(layer).detach()

    def near() -> Tensor:
        return logp_N + spread * torch.randn(len(logp_N), dtype=torch.float64, generator=generator)

    data = StepData.of(samples, spec, torch.device("cpu"))
    precise = {name: getattr(data, name).double() for name in ("advantages_N", "weights_N")}
    if spec.loss_agg_mode == "seq-mean-token-mean":
        lengths = torch.tensor(LENGTHS, dtype=torch.float64)
        precise["weights_N"] = (precise["weights_N"] > 0) / lengths.repeat_interleave(torch.tensor(LENGTHS))
    return Case(
        spec=spec,
        layer=layer,
        data=replace(data, old_logprobs_N=near(), rollout_logprobs_N=near(), reference_logprobs_N=near(), **precise),
    )


def logprobs_of(layer: Layer) -> Tensor:
    """Of the labels, differentiable."""
    logp_NV = torch.log_softmax(logits_of(layer.hidden_NH, layer.head), -1)
    return logp_NV.gather(1, layer.labels_N[:, None])[:, 0]


def fused(case: Case, indices: Sequence[int] = SEQUENCES, chunk_tokens: int | None = None) -> ObjectiveOutput:
    """The sums of some sequences by the trainer's own way."""
    objective = build_policy_objective(case.spec)
    rows = case.data.tokens_of(indices)
    loss = MicroBatchLoss(objective, case.spec, case.data, indices, fill_old=False)
    return fused_loss(
        case.layer.hidden_NH[rows],
        case.layer.head,
        case.layer.labels_N[rows],
        loss.form(),
        needs=objective.needs,
        chunk_tokens=chunk_tokens,
    )


def oracle_loss(case: Case) -> Tensor:
    """The update's loss, differentiable."""
    spec, data = case.spec, case.data
    logp_NV = torch.log_softmax(logits_of(case.layer.hidden_NH, case.layer.head), -1)
    logp = _padded(logp_NV.gather(1, case.layer.labels_N[:, None])[:, 0])
    entropy = _padded(-(logp_NV.exp() * logp_NV).sum(-1))
    old, rollout = _padded(data.old_logprobs_N), _padded(data.rollout_logprobs_N)
    advantages, mask = _padded(data.advantages_N), _padded(torch.ones_like(data.advantages_N))
    loss = _policy_loss(spec, logp, old, advantages, mask) * _correction(spec, old - rollout, mask)
    if spec.beta:
        assert data.reference_logprobs_N is not None
        d = _padded(data.reference_logprobs_N) - logp
        # k1 takes the gradient of k2, as verl's "k1+" does.
        k1 = -d.detach() + d**2 / 2 - (d**2 / 2).detach()
        loss = loss + spec.beta * {"k1": k1, "k2": d**2 / 2, "k3": d.exp() - 1 - d}[spec.kl_estimator]
    loss = loss - spec.entropy_coef * entropy
    return _aggregated(spec, loss, mask * torch.tensor(data.is_trained, dtype=torch.float64)[:, None])


def _policy_loss(spec: RlSpec, logp: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    low, high = 1 - spec.epsilon_low, 1 + spec.epsilon_high
    ratio = (logp - old).exp()
    match spec.policy_loss:
        case "ppo_clip":
            # The signs and the third loss as verl has them.
            clipped = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(low, high))
            if spec.delta is None:
                return clipped
            return torch.where(advantages < 0, torch.minimum(-advantages * spec.delta, clipped), clipped)
        case "gspo":
            # The paper's: one differentiable ratio for the sequence, as TRL has it.
            ratio = (((logp - old) * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)).exp()
            return -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        case "cispo":
            return -ratio.clamp(low, high).detach() * advantages * logp
        case "reinforce":
            return -advantages * logp


def _correction(spec: RlSpec, log_ratio: Tensor, mask: Tensor) -> Tensor:
    mode, bounds = spec.rollout_correction.mode, spec.rollout_correction
    if mode == "none":
        return torch.ones_like(mask)
    if mode.startswith("sequence"):
        log_ratio = (log_ratio * mask).sum(-1, keepdim=True)
        if bounds.aggregate == "mean":
            log_ratio = log_ratio / mask.sum(-1, keepdim=True)
    ratio = log_ratio.exp()
    if mode.endswith("truncate"):
        return ratio.clamp(max=bounds.max)
    return ratio.masked_fill((ratio > bounds.max) | (ratio < bounds.min), 0.0)


def _aggregated(spec: RlSpec, loss: Tensor, mask: Tensor) -> Tensor:
    num_sequences = (mask.sum(-1) > 0).sum()
    match spec.loss_agg_mode:
        case "token-mean":
            return (loss * mask).sum() / mask.sum()
        case "seq-mean-token-sum":
            return (loss * mask).sum(-1).sum() / num_sequences
        case "seq-mean-token-mean":
            return ((loss * mask).sum(-1) / mask.sum(-1).clamp_min(1)).sum() / num_sequences
        case "seq-mean-token-sum-norm":
            return (loss * mask).sum(-1).sum() / num_sequences / spec.max_completion_length


def _padded(values_N: Tensor) -> Tensor:
    return pad_sequence(list(torch.split(values_N, LENGTHS)), batch_first=True)
