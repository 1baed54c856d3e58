"""The shapes that travel between rollout engine, rewards, advantages and trainer.

Token ids are the truth from the engine to the loss; text is decoded for people and verifiers only and never tokenised
again.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What the caller should know about a started rollout engine."""

    vllm_version: str
    eos_token_ids: tuple[int, ...]
    """Tokens that end a completion, the same as the trainer's `ModelFacts` has."""
    start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt of a data set."""

    uid: int
    """Line number in the data set, from 0."""
    text: str
    token_ids: tuple[int, ...]
    answer: str
    """The gold answer as written in the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """How completions are drawn: from the full distribution at a temperature (top_p 1, top_k off)."""

    temperature: float
    max_completion_length: int
    """Tokens, end-of-sequence token included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One completion asked of the engine."""

    prompt: Prompt
    sample_index: int
    seed: int
    """Follows from (run seed, stage, step, prompt uid, sample index), so that a request made again draws the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Tokens [start, end) of a completion were drawn from policy `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled completion."""

    prompt_uid: int
    sample_index: int
    token_ids: tuple[int, ...]
    """The end-of-sequence token is the last one where `finish_reason` is `stop`."""
    logprobs: tuple[float, ...]
    """Log-prob of each token under the distribution that it was drawn from (temperature applied), [len(token_ids)]."""
    finish_reason: Literal["stop", "length"]
    text: str
    """Without special tokens."""
    policy_version: int
    """The oldest of its tokens'."""
    version_spans: tuple[VersionSpan, ...] = ()
    """Which policy drew which tokens, end to end, versions rising; several where weights were updated meanwhile. Empty:
    one span of `policy_version`."""

    @property
    def spans(self) -> tuple[VersionSpan, ...]:
        """`version_spans`, never empty."""
        whole = VersionSpan(version=self.policy_version, start=0, end=len(self.token_ids))
        return self.version_spans or (whole,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """One completion as the trainer needs it."""

    prompt_token_ids: tuple[int, ...]
    completion_token_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    """From the engine, one per completion token."""
    advantage: float
    is_trained: bool = True
    """Otherwise it is no part of the loss and of no denominator, but its log-probs are compared all the same."""
