"""Seeds and switches that make a run repeatable bit for bit on the same machine and versions."""

import os
import random

import numpy as np
import torch

from workers.seeds import derive_seed


def make_deterministic(run_seed: int, role: str, rank: int = 0) -> None:
    """Seed every generator of this process and let torch use deterministic algorithms only.

    Must run before the first CUDA call. An operation without a deterministic form raises RuntimeError when it is used.
    """
    # cuBLAS reads this once, when its first handle is made; without it torch refuses matrix products on CUDA.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    seed = derive_seed(run_seed, role, rank)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Otherwise every new tensor is first filled with NaN, for code that reads what nobody wrote: 6 to 8 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def random_states() -> dict[str, torch.Tensor]:
    """The states of torch's generators, by device, for a checkpoint."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, torch.Tensor]) -> None:
    """Put torch's generators where `random_states` found them; a device missing here is passed over."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
