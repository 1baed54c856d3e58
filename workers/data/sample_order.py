"""In which order samples are visited: a function of seed and position alone, so that resuming needs no state."""

import numpy as np

from workers.determinism import derive_seed


def epoch_permutation(num_samples: int, *, seed: int, stream: str, epoch: int) -> list[int]:
    """A permutation of range(num_samples) that depends on nothing else than the arguments.

    From numpy's PCG64 generator, seeded by (seed, stream, epoch); `epoch` counts from 0, `stream` keeps stages apart.
    """
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, stream, epoch)))
    order: list[int] = generator.permutation(num_samples).tolist()
    return order
