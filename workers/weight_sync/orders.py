"""What travels between trainer, driver and rollout engine for one update of the weights: names and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightManifest:
    """What the trainer says about the weights that it hands over."""

    num_tensors: int
    num_bytes: int
    """Size of the file."""
    digests: Mapping[str, str] | None = None
    """SHA-256 of each tensor's bytes, hexadecimal, taken before they were written; None where nobody asked."""
    gather_s: float = field(default=0.0, compare=False)
    """Seconds until the weights of all ranks were together."""
    write_s: float = field(default=0.0, compare=False)
    """Seconds of writing and, where asked, of hashing them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOrder:
    """One update as an engine is told about it."""

    version: int
    """Of the policy: what the engine's completions carry from then on."""
    manifest: WeightManifest
    path: str
    """The file; where its content comes with the order, only a name for it, which no other content ever has."""
    landing: str = ""
    """Name of the folder that the engines of one machine share for such contents."""
    probe: tuple[Tokens, ...] = ()
    """Token sequences to score under the new weights."""
    deadline_s: float
    """From the order to its confirmation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What an engine did with an order."""

    pause_s: float
    """Seconds of freezing requests, and of letting them go on."""
    load_s: float
    """Seconds in which vLLM took the weights and packed them."""
    verify_s: float
    """Seconds until the probe was scored."""
    probe_logprobs: tuple[tuple[float, ...], ...]
    """Of each of the probe's sequences, the log-prob of every token but the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """What became of a broadcast, as the trainer tells it."""

    gather_s: float = 0.0
    """Seconds in which the ranks brought their parts together."""
    failure: str | None = None
    """Why it did not reach all engines; the group is gone then."""
