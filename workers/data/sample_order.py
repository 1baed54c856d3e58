"""In which order samples are visited: a function of seed and position alone, so that resuming needs no state."""

from functools import lru_cache

import numpy as np

from workers.seeds import derive_seed


# Asked for at every step; two epochs meet in one step at most.
@lru_cache(maxsize=4)
def epoch_permutation(num_samples: int, *, seed: int, stream: str, epoch: int) -> tuple[int, ...]:
    """A permutation of range(num_samples) that depends on nothing else than the arguments.

    From numpy's PCG64 generator, seeded by (seed, stream, epoch); `epoch` counts from 0, `stream` keeps stages apart.
    """
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, stream, epoch)))
    return tuple(generator.permutation(num_samples).tolist())
