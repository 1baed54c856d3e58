"""What came of one sample."""

from dataclasses import dataclass
from typing import Literal

Failure = Literal["timeout", "crash", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verifier's score, or why there is none."""

    score: float | None
    failure: Failure | None = None
    message: str = ""
