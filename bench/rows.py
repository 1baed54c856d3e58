"""What a comparison comes to: ours, the peer's, and the ratio of both from one run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table."""

    ours: float
    peer: float
    unit: str

    @property
    def ratio(self) -> float:
        """Ours by the peer's. Whether more is better depends on the unit: it is for a rate alone."""
        return self.ours / self.peer

    def as_json(self) -> dict[str, float | str]:
        """For a file."""
        return {"ours": self.ours, "peer": self.peer, "ratio": self.ratio, "unit": self.unit}
