"""SED's tau in a run: calibrated once on the untrained model, then carried from checkpoint to checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from service.contract.objectives import EaftObjective, ObjectiveSpec, SedObjective
from service.contract.stages import SftSpec
from workers.actors.policy_model import PolicyModel
from workers.actors.trainer_results import Histogram
from workers.config_error import ConfigError
from workers.data.token_sequence import TokenSequence
from workers.objectives.base import StatisticsNeeds
from workers.objectives.build import needs_calibration
from workers.objectives.sed_sft import calibrate_tau


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Tau and where it comes from; all empty for other objectives."""

    tau: float | None = None
    num_tokens: int = 0
    histogram: Histogram | None = None

    def as_facts(self) -> dict[str, Any]:
        """For a checkpoint's manifest."""
        return asdict(self)

    @classmethod
    def from_facts(cls, stored: dict[str, Any]) -> "Threshold":
        """What `as_facts` gave."""
        histogram = stored["histogram"]
        return cls(
            tau=stored["tau"],
            num_tokens=stored["num_tokens"],
            histogram=histogram and Histogram(**(histogram | {"counts": tuple(histogram["counts"])})),
        )


def calibrate_threshold(policy: PolicyModel, spec: SftSpec, samples: Sequence[TokenSequence]) -> Threshold:
    """The objective's threshold, measured on the first `calibration_samples` where it must be measured.

    Raises ConfigError if the objective asks for more likeliest tokens than the vocabulary has.
    """
    objective = spec.objective
    _require_top_k(objective, policy.facts.vocab_size)
    if not isinstance(objective, SedObjective) or objective.mask == "none":
        return Threshold()
    if not needs_calibration(objective):
        return Threshold(tau=objective.tau)
    masses_N = _topk_masses(policy, spec, samples[: objective.calibration_samples], objective.top_k)
    # All ranks have measured a share; rank 0 decides, so that no difference between machines can split them.
    calibration = policy.ranks.from_first(lambda: calibrate_tau([masses_N], objective.mask_ratio))
    histogram = Histogram(low=0.0, high=1.0, counts=calibration.histogram_counts)
    return Threshold(tau=calibration.tau, num_tokens=calibration.num_tokens, histogram=histogram)


@torch.no_grad()
def _topk_masses(policy: PolicyModel, spec: SftSpec, samples: Sequence[TokenSequence], top_k: int) -> Tensor:
    masses = []
    for indices in policy.microbatches(samples, spec.microbatch_tokens(on_gpu=policy.on_gpu)):
        microbatch = [samples[index] for index in indices]
        mass_N = policy.statistics(microbatch, needs=StatisticsNeeds(top_k=top_k)).topk_mass_N
        assert mass_N is not None
        masses.append(mass_N)
    return policy.ranks.gather_values(torch.cat(masses))


def _require_top_k(objective: ObjectiveSpec, vocab_size: int) -> None:
    if isinstance(objective, SedObjective | EaftObjective) and objective.top_k > vocab_size:
        usual = "2 or 3" if isinstance(objective, SedObjective) else "20"
        raise ConfigError(
            f"sft.objective.top_k {objective.top_k} exceeds the model's vocabulary of {vocab_size}; "
            f"the paper uses {usual}"
        )
