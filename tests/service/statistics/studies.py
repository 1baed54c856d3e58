"""Simulated arms whose truth is known."""

from dataclasses import dataclass

import numpy as np

from service.statistics.scores import ArmScores


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Two arms with the chances of a real study: of seeds, of prompts, of a prompt under a seed, and of samples."""

    num_units: int = 7
    num_prompts: int = 64
    num_samples: int = 16
    difference: float = 0.0
    seed_sd: float = 0.015
    prompt_sd: float = 0.2
    cell_sd: float = 0.1
    arm_prompt_sd: float = 0.0
    """How differently the arms find the same prompt hard."""
    pairing: float = 0.3
    """Share of the seeds' variance that both arms share."""

    def draw(self, rng: np.random.Generator) -> tuple[ArmScores, ArmScores]:
        """Arm and baseline."""
        base_P = rng.normal(0.4, self.prompt_sd, self.num_prompts)
        own_P = rng.normal(self.difference, self.arm_prompt_sd, self.num_prompts)
        shared_U = rng.normal(0.0, self.seed_sd * np.sqrt(self.pairing), self.num_units)
        return self._arm(rng, base_P + own_P, shared_U), self._arm(rng, base_P, shared_U)

    def _arm(self, rng: np.random.Generator, mean_P: np.ndarray, shared_U: np.ndarray) -> ArmScores:
        unit_U = shared_U + rng.normal(0.0, self.seed_sd * np.sqrt(1 - self.pairing), self.num_units)
        cells_UP = rng.normal(0.0, self.cell_sd, (self.num_units, self.num_prompts))
        chance_UP = np.clip(mean_P[None, :] + unit_U[:, None] + cells_UP, 0.0, 1.0)
        return ArmScores(
            units=tuple(range(self.num_units)),
            values_UP=rng.binomial(self.num_samples, chance_UP) / self.num_samples,
        )
