"""What a verifier is asked, and what it answers."""

from dataclasses import dataclass
from typing import Protocol

from workers.config_error import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSample:
    """One completion to judge. Prompt and sample index name it within its batch."""

    prompt_uid: int
    sample_index: int
    prompt: str
    completion: str
    answer: str
    """The gold answer as written in the data."""


class Verifier(Protocol):
    """Judges one sample."""

    def score(self, sample: RewardSample) -> float:
        """The reward. Raises GoldUnreadable, Undecided, or anything where the verifier itself is at fault."""


class Undecided(Exception):
    """This sample could not be judged; another one may be."""


class GoldUnreadable(ConfigError):
    """A gold answer has another form than the reward reads; no completion could earn its reward honestly."""


class RewardFailed(Exception):
    """Samples could not be judged, and the specification or their number says that the run must not go on."""
