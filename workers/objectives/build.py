"""From the specification's union to the function that computes the loss."""

import math
from typing import assert_never

from service.contract.objectives import (
    AsftObjective,
    CrossEntropyObjective,
    DeftObjective,
    DftObjective,
    EaftObjective,
    EksftObjective,
    EntropyRegularisedObjective,
    FocalObjective,
    GemObjective,
    GiftObjective,
    LabelSmoothingObjective,
    ObjectiveSpec,
    PowerObjective,
    ProfitObjective,
    SedObjective,
)
from service.contract.stages import RlSpec
from workers.objectives.anchored import Anchored, Tilted
from workers.objectives.base import DistributionObjective, RowObjective, SupervisedObjective
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.eksft import EntropyKlSelection
from workers.objectives.fused_linear import WeightedLoss
from workers.objectives.gem import Gem
from workers.objectives.policy_gradient import ClippedSurrogate, ClippedWeight, PolicyLoss, Reinforce
from workers.objectives.policy_objective import PolicyObjective
from workers.objectives.power_family import Deft, DynamicFineTuning, Power
from workers.objectives.reweighted import EntropyAdaptive, Focal, ProbabilityFilter
from workers.objectives.sed_sft import SelectivePenalty
from workers.objectives.smoothed import EntropyRegularised, LabelSmoothing


def needs_calibration(spec: ObjectiveSpec) -> bool:
    """Whether tau must be measured on the untrained model first."""
    return isinstance(spec, SedObjective) and spec.mask == "topk" and spec.tau is None


def build_supervised(spec: ObjectiveSpec, calibrated_tau: float | None) -> SupervisedObjective:
    """The supervised objective; `calibrated_tau` counts where `needs_calibration` says so, and only there."""
    match spec:
        case CrossEntropyObjective():
            return CrossEntropy()
        case SedObjective():
            return SelectivePenalty(lambda_=spec.lambda_, top_k=spec.top_k, tau=_tau(spec, calibrated_tau))
        case GemObjective():
            return Gem(h=spec.h, beta=spec.beta)
        case LabelSmoothingObjective():
            return LabelSmoothing(epsilon=spec.epsilon)
        case EntropyRegularisedObjective():
            return EntropyRegularised(lambda_=spec.lambda_)
        case AsftObjective(kl_coef=0.0):
            return DynamicFineTuning()
        case AsftObjective():
            return Anchored(kl_coef=spec.kl_coef)
        case GiftObjective():
            return Tilted(beta=spec.beta, smoothing=spec.smoothing)
        case EksftObjective():
            return EntropyKlSelection(**spec.model_dump(exclude={"type"}))
        case _:
            return _build_weighted(spec)


def build_policy_objective(spec: RlSpec) -> PolicyObjective:
    """The loss of reinforcement learning but for its division by what `loss_agg_mode` counts."""
    return PolicyObjective(
        policy_loss=_policy_loss(spec),
        by_sequence=spec.policy_loss == "gspo",
        beta=spec.beta,
        kl_estimator=spec.kl_estimator,
        entropy_coef=spec.entropy_coef,
    )


def _policy_loss(spec: RlSpec) -> PolicyLoss:
    match spec.policy_loss:
        case "ppo_clip":
            return ClippedSurrogate(epsilon_low=spec.epsilon_low, epsilon_high=spec.epsilon_high, delta=spec.delta)
        case "gspo":
            return ClippedSurrogate(epsilon_low=spec.epsilon_low, epsilon_high=spec.epsilon_high)
        case "cispo":
            return ClippedWeight(epsilon_low=spec.epsilon_low, epsilon_high=spec.epsilon_high)
        case "reinforce":
            return Reinforce()
        case _:
            assert_never(spec.policy_loss)


def row_loss(objective: RowObjective) -> WeightedLoss | DistributionObjective:
    """The form in which the fused sweep takes a supervised objective: it needs no token's place in the batch."""
    if isinstance(objective, DistributionObjective):
        return objective
    return lambda statistics, _rows: objective(statistics)


def _build_weighted(
    spec: DftObjective | PowerObjective | DeftObjective | EaftObjective | ProfitObjective | FocalObjective,
) -> SupervisedObjective:
    match spec:
        case DftObjective():
            return DynamicFineTuning()
        case PowerObjective():
            return Power(q=spec.q)
        case DeftObjective():
            return Deft()
        case EaftObjective():
            return EntropyAdaptive(alpha=spec.alpha, top_k=spec.top_k)
        case ProfitObjective():
            return ProbabilityFilter(threshold=spec.threshold)
        case FocalObjective():
            return Focal(gamma=spec.gamma)
        case _:
            assert_never(spec)


def _tau(spec: SedObjective, calibrated_tau: float | None) -> float:
    if spec.mask == "none":
        return math.inf
    tau = spec.tau if spec.tau is not None else calibrated_tau
    assert tau is not None, "tau must be calibrated before the objective is built"
    return tau
