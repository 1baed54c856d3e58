"""vLLM's worker on the CPU, with what it lacks there for rollouts. vLLM imports it by name in the engine's process.

- Requests with a seed in `extra_args` are drawn all at once by `token_draws`. With vLLM's own seeds each request has a
  generator that is asked one by one, and a prompt that is cut into two passes ends the engine: a generator on the CPU
  cannot be set back.
- Norms run as one kernel, which vLLM has for the CPU but offers on GPUs only: its own form takes about ten operations.
"""

import secrets
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm import ir
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.cpu_worker import CPUWorker

from workers.actors.token_draws import Words, draw, uniforms
from workers.actors.vllm_adapter import NORM_PROVIDER, SEED_KEY


class RolloutCpuWorker(CPUWorker):
    """Of one engine."""

    def init_device(self) -> None:
        """Put our sampler into the place of vLLM's."""
        super().init_device()
        self.model_runner.sampler = SeededSampler(self.model_runner)


class SeededSampler(Sampler):
    """Draws requests that bring a seed of ours, and others of their batch; a batch without any is left to vLLM.

    None of a batch with such a request may be drawn from anything but its full distribution at a temperature.
    """

    def __init__(self, runner: Any) -> None:
        super().__init__(logprobs_mode=runner.model_config.logprobs_mode)
        self._runner = runner
        self._metadata: SamplingMetadata | None = None
        self._seeds_B: Words | None = None

    def forward(
        self, logits: Tensor, sampling_metadata: SamplingMetadata, *others: Any, **further: Any
    ) -> SamplerOutput:
        """A token for each request of the batch, and its log-prob after the temperature.

        Ranks, which nobody asks for, are 0.
        """
        seeds_B = self._seeds(sampling_metadata)
        if seeds_B is None:
            return super().forward(logits, sampling_metadata, *others, **further)
        batch = self._runner.input_batch
        places_B = (batch.num_tokens_no_spec - batch.num_prompt_tokens)[: len(seeds_B)].astype(np.int64)
        logits_BV = logits.to(torch.float32).div_(sampling_metadata.temperature.unsqueeze(1))
        tokens_B, logprobs_B = draw(logits_BV, uniforms(seeds_B, places_B))
        tokens_B1 = tokens_B.to(torch.int32).unsqueeze(1)
        logprobs = LogprobsTensors(
            logprob_token_ids=tokens_B1,
            logprobs=logprobs_B.unsqueeze(1),
            selected_token_ranks=torch.zeros_like(tokens_B),
        )
        return SamplerOutput(sampled_token_ids=tokens_B1, logprobs_tensors=logprobs)

    def _seeds(self, metadata: SamplingMetadata) -> Words | None:
        """Of the batch's requests, in its order; some number for one that has none, and None if none has one. The
        metadata are made anew with every change of the batch."""
        if metadata is not self._metadata:
            found = [self._seed_of(request_id) for request_id in self._runner.input_batch.req_ids]
            known = [secrets.randbits(63) if seed is None else seed for seed in found]
            self._seeds_B = np.array(known, dtype=np.uint64) if set(found) - {None} else None
            self._metadata = metadata
        return self._seeds_B

    def _seed_of(self, request_id: str) -> int | None:
        seed: int | None = (self._runner.requests[request_id].sampling_params.extra_args or {}).get(SEED_KEY)
        return seed


def _has_plain_weight(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return variance_size is None and weight is not None and weight.dtype == x.dtype


def _has_plain_weight_and_residual(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _has_plain_weight(x, weight, epsilon, variance_size) and x.is_contiguous() and x_residual.is_contiguous()


@ir.ops.rms_norm.register_impl(NORM_PROVIDER, supports_args=_has_plain_weight)
def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    """See `vllm.ir.ops.layernorm.rms_norm`."""
    normed = torch.empty(x.shape, dtype=x.dtype)
    torch.ops._C.rms_norm(normed, x.contiguous(), weight, epsilon)
    return normed


@ir.ops.fused_add_rms_norm.register_impl(NORM_PROVIDER, supports_args=_has_plain_weight_and_residual, inplace=True)
def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """See `vllm.ir.ops.layernorm.fused_add_rms_norm`; both results take the places of the inputs."""
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual
