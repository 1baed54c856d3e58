"""What TRL's and verl's own code makes of some tokens: `python -m bench.rl_formulas FILE` writes it as JSON.

The project's losses and advantages are held to the file in its tests (tests/workers/objectives/peer_formulas.json).
Runs in an interpreter that has the peers (bench/peers.txt) and, for verl, what its algorithms import:

    pip install --no-deps verl==0.8.0 tensordict==0.10.0 omegaconf hydra-core codetiming

Everything is float64. Of TRL it is the trainer's own `_compute_loss` that is called, with a stand-in for the trainer
that holds its settings; of verl the functions that its registries name.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

LENGTHS = [3, 1, 5, 2, 4, 4]
LONGEST = 6
"""Tokens that a completion may have: one more than any has."""
LOW, HIGH, DELTA, BETA = 0.2, 0.28, 1.4, 0.1
REWARDS = [[0.0, 1.0, 0.25, 1.0], [1.0, 0.0, 0.0, 0.0], [0.5, 0.75, -1.0, 2.0]]
REWARD_LENGTHS = [[3, 1, 5, 2], [4, 4, 1, 2], [5, 3, 2, 1]]


@dataclass(frozen=True)
class Tokens:
    """Six completions: padded matrices [6, 5], advantages [6]."""

    logp: Tensor
    old: Tensor
    reference: Tensor
    correction: Tensor
    advantages: Tensor
    mask: Tensor


def make_tokens() -> Tokens:
    """Log-probs around each other, so that every bound acts on some tokens."""
    generator = torch.Generator().manual_seed(11)

    def near(center: Tensor | float, spread: float) -> Tensor:
        noise = torch.randn(len(LENGTHS), max(LENGTHS), dtype=torch.float64, generator=generator)
        return center + spread * noise

    logp = near(-1.5, 0.5)
    mask = torch.arange(max(LENGTHS)).expand(len(LENGTHS), -1) < torch.tensor(LENGTHS)[:, None]
    return Tokens(
        logp=logp.clone().requires_grad_(),
        old=near(logp, 0.4),
        reference=near(logp, 0.4),
        correction=near(0.0, 0.3).exp(),
        advantages=torch.tensor([1.0, -1.0, 0.5, -2.0, 0.0, 1.5], dtype=torch.float64),
        mask=mask.double(),
    )


TRL_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dapo": ({"loss_type": "dapo"}, {}),
    "grpo": ({"loss_type": "grpo"}, {"loss_agg_mode": "seq-mean-token-mean"}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"loss_agg_mode": "seq-mean-token-sum-norm"}),
    "two-sided clip": ({"loss_type": "dapo", "delta": DELTA}, {"delta": DELTA}),
    "kl": ({"loss_type": "dapo", "beta": BETA}, {"beta": BETA}),
    "importance weights": ({"loss_type": "dapo", "use_vllm": True}, {"corrected": True}),
    "sequences": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"policy_loss": "gspo", "loss_agg_mode": "seq-mean-token-mean"},
    ),
    "sequences by token, kl": (
        {"loss_type": "dapo", "importance_sampling_level": "sequence", "beta": BETA},
        {"policy_loss": "gspo", "beta": BETA},
    ),
    # Its upper bound is given itself, and it has no lower one.
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.0 + HIGH}, {"policy_loss": "cispo", "epsilon_low": 1.0}),
}
VERL_CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    mode: ("vanilla", {"loss_agg_mode": mode}, {"loss_agg_mode": mode, "delta": DELTA})
    for mode in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
} | {
    "corrected": ("vanilla", {"corrected": True}, {"delta": DELTA, "corrected": True}),
    "gspo": ("gspo", {}, {"policy_loss": "gspo", "loss_agg_mode": "seq-mean-token-mean"}),
    "cispo": ("cispo", {}, {"policy_loss": "cispo"}),
    "k1+": ("vanilla", {"kl": "k1+"}, {"delta": DELTA, "beta": BETA, "kl_estimator": "k1"}),
    "k2": ("vanilla", {"kl": "k2"}, {"delta": DELTA, "beta": BETA, "kl_estimator": "k2"}),
    "k3": ("vanilla", {"kl": "k3"}, {"delta": DELTA, "beta": BETA, "kl_estimator": "k3"}),
}
VERL_ADVANTAGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "grpo": ("grpo", {}, {"adv_estimator": "grpo"}),
    "dr_grpo": ("grpo", {"norm_adv_by_std_in_grpo": False}, {"adv_estimator": "dr_grpo"}),
    "rloo": ("rloo", {}, {"adv_estimator": "rloo"}),
    "reinforce++": ("reinforce_plus_plus", {}, {"adv_estimator": "reinforce_plus_plus"}),
    "reinforce++ baseline": (
        "reinforce_plus_plus_baseline",
        {},
        {"adv_estimator": "reinforce_plus_plus_baseline"},
    ),
}


def trl_loss(settings: dict[str, Any], tokens: Tokens) -> Tensor:
    """As a training step's only micro-batch."""
    from trl.trainer.grpo_trainer import GRPOTrainer  # type: ignore[import-not-found]  # in the peers' environment

    plain = {"beta": 0.0, "delta": None, "use_vllm": False, "epsilon_high": HIGH, "importance_sampling_level": "token"}
    chosen = plain | settings
    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (tokens.logp, torch.zeros_like(tokens.logp), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        epsilon_low=LOW,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=chosen["delta"], steps_per_generation=1),
        vllm_importance_sampling_correction=True,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        **{name: value for name, value in chosen.items() if name != "delta"},
    )
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1] + 1,
        "completion_ids": ids,
        "completion_mask": tokens.mask,
        "advantages": tokens.advantages,
        "old_per_token_logps": tokens.old,
        "ref_per_token_logps": tokens.reference,
        "importance_sampling_ratio": tokens.correction,
        "num_items_in_batch": tokens.mask.sum(),
    }
    loss: Tensor = GRPOTrainer._compute_loss(stand_in, None, inputs)
    return loss


def verl_loss(name: str, settings: dict[str, Any], tokens: Tokens) -> Tensor:
    """As an update's only micro-batch."""
    from verl.trainer.ppo import core_algos  # type: ignore[import-not-found]
    from verl.workers.config import ActorConfig  # type: ignore[import-not-found]

    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=LOW,
        clip_ratio_high=HIGH,
        clip_ratio_c=DELTA,
    )
    mode = settings.get("loss_agg_mode", "token-mean")
    scale = {"loss_scale_factor": LONGEST} if mode == "seq-mean-token-sum-norm" else {}
    config.global_batch_info.update(scale)
    loss: Tensor
    loss, _ = core_algos.get_policy_loss_fn(name)(
        old_log_prob=tokens.old,
        log_prob=tokens.logp,
        advantages=tokens.advantages[:, None] * tokens.mask,
        response_mask=tokens.mask,
        loss_agg_mode=mode,
        config=config,
        rollout_is_weights=tokens.correction if settings.get("corrected") else None,
    )
    if "kl" in settings:
        kl = core_algos.kl_penalty(tokens.logp, tokens.reference, settings["kl"])
        loss = loss + BETA * core_algos.agg_loss(loss_mat=kl, loss_mask=tokens.mask, loss_agg_mode=mode)
    return loss


def verl_advantages(name: str, settings: dict[str, Any]) -> list[list[float]]:
    """Of each completion, which all its tokens share."""
    from verl.trainer.ppo import core_algos

    lengths = torch.tensor(REWARD_LENGTHS).flatten()
    mask = (torch.arange(int(lengths.max())).expand(len(lengths), -1) < lengths[:, None]).double()
    rewards = torch.zeros_like(mask)
    rewards[torch.arange(len(lengths)), lengths - 1] = torch.tensor(REWARDS, dtype=torch.float64).flatten()
    index = np.repeat(np.arange(len(REWARDS)), len(REWARDS[0]))
    estimate = core_algos.get_adv_estimator_fn(name)
    grouped = {} if name == "reinforce_plus_plus" else {"index": index}
    advantages, _ = estimate(
        token_level_rewards=rewards, response_mask=mask, config=SimpleNamespace(gamma=1.0), **grouped, **settings
    )
    rows: list[list[float]] = advantages[:, 0].view(len(REWARDS), -1).tolist()
    return rows


def record() -> dict[str, Any]:
    """Inputs, settings in this project's words, and what came out."""
    tokens = make_tokens()
    losses = [
        {"peer": "trl", "name": name, "settings": ours} | _outcome(trl_loss(theirs, tokens), tokens)
        for name, (theirs, ours) in TRL_CASES.items()
    ] + [
        {"peer": "verl", "name": name, "settings": ours} | _outcome(verl_loss(loss, theirs, tokens), tokens)
        for name, (loss, theirs, ours) in VERL_CASES.items()
    ]
    advantages = [
        {"peer": "verl", "name": name, "settings": ours, "advantages": verl_advantages(estimator, theirs)}
        for name, (estimator, theirs, ours) in VERL_ADVANTAGES.items()
    ]
    return {
        "versions": {peer: version(peer) for peer in ("trl", "verl", "torch")},
        "epsilons": {"epsilon_low": LOW, "epsilon_high": HIGH, "max_completion_length": LONGEST},
        "tokens": {
            "lengths": LENGTHS,
            "advantages": tokens.advantages.tolist(),
            **{name: _flat(getattr(tokens, name), tokens.mask) for name in ("logp", "old", "reference", "correction")},
        },
        "losses": losses,
        "rewards": REWARDS,
        "reward_lengths": REWARD_LENGTHS,
        "advantages": advantages,
    }


def _outcome(loss: Tensor, tokens: Tokens) -> dict[str, Any]:
    (gradient,) = torch.autograd.grad(loss, tokens.logp)
    return {"loss": loss.item(), "gradient": _flat(gradient, tokens.mask)}


def _flat(values: Tensor, mask: Tensor) -> list[float]:
    """Of the tokens, one completion after the other."""
    flat: list[float] = values.detach()[mask > 0].tolist()
    return flat


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record what TRL and verl make of some tokens.")
    parser.add_argument("file", type=Path)
    parser.parse_args().file.write_text(json.dumps(record(), indent=1) + "\n")
