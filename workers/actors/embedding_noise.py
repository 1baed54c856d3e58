"""NEFTune (arXiv 2310.05914): uniform noise on the input embeddings while training.

Every sequence draws its own noise from its own seed, scaled by alpha / sqrt(L d) with its own length L and the
embeddings' width d. So neither padding, packing nor the split into micro-batches changes it; the authors' code takes
the padded length for L.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingNoise:
    """The noise of one micro-batch."""

    alpha: float
    seeds: tuple[int, ...]
    """One per sequence."""

    def sample(self, lengths: Sequence[int], like_BTD: Tensor) -> Tensor:
        """Noise in the shape and on the device of the embeddings, [B, T, D]; 0 beyond each sequence's length.

        The embeddings hold a sequence in each row, or all of them end to end in a single one.
        """
        drawn_LD = [
            self._of_sequence(seed, length, like_BTD.shape[-1])
            for seed, length in zip(self.seeds, lengths, strict=True)
        ]
        if len(like_BTD) == 1:
            return torch.cat(drawn_LD).unsqueeze(0).to(like_BTD)
        noise_BTD = torch.zeros(like_BTD.shape)
        for row, noise_LD in enumerate(drawn_LD):
            noise_BTD[row, : len(noise_LD)] = noise_LD
        return noise_BTD.to(like_BTD)

    def _of_sequence(self, seed: int, length: int, width: int) -> Tensor:
        uniform_LD = torch.rand(length, width, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0
        return uniform_LD * (self.alpha / (length * width) ** 0.5)


@contextmanager
def noisy_embeddings(
    embeddings: torch.nn.Module, noise: EmbeddingNoise | None, lengths: Sequence[int]
) -> Iterator[None]:
    """While it is open, the embeddings of the inputs come with the noise, if there is any."""
    if noise is None:
        yield
        return

    def add(_module: torch.nn.Module, _inputs: object, embedded_BTD: Tensor) -> Tensor:
        return embedded_BTD + noise.sample(lengths, embedded_BTD)

    handle = embeddings.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
