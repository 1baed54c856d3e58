"""How the trainer's weights reach the rollout engines, and how closely it is checked that they did."""

from typing import Literal, Self

from pydantic import Field, model_validator

from service.contract.strict_model import StrictModel

WeightTransport = Literal["auto", "shared_memory", "file", "object_store", "nccl"]


class WeightSyncSpec(StrictModel):
    """The settings of every weight sync of an experiment, those for its evaluations included.

    An experiment without reinforcement learning has the defaults.
    """

    transport: WeightTransport = "auto"
    """`shared_memory`: one file in the memory of the machine that holds all actors. `file`: one file in the
    experiment's output folder, which all machines share. `object_store`: through Ray to any machine. `nccl`: from GPU
    to GPU. `auto`: `shared_memory` on one machine, else `object_store`."""
    probe_num_sequences: int = Field(default=4, ge=0, le=256)
    """Token sequences that trainer and engines score after each sync; 0: none."""
    probe_max_logprob_diff: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """Largest difference, in nats, that their log-probs of one token may have. Left out: by `model.dtype`."""
    checksum_steps: int | None = Field(default=None, ge=1)
    """Weight syncs from one whose every tensor is hashed on both sides to the next such one. Left out: only the first
    sync of an attempt and those of engines that replace others."""

    @model_validator(mode="after")
    def _limit_needs_a_probe(self) -> Self:
        if self.probe_num_sequences == 0 and self.probe_max_logprob_diff is not None:
            raise ValueError(
                f"probe_max_logprob_diff {self.probe_max_logprob_diff:g} limits what a probe shows, and "
                "probe_num_sequences 0 makes none; leave one of them out"
            )
        return self
