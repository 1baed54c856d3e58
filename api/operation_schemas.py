"""What the API answers about the running of the service. The client reads these too."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.contract.strict_model import WireModel


class LogSources(WireModel):
    """Everybody who has written lines."""

    items: list[str]


class RetentionDays(WireModel):
    """Days after an experiment's end; null: for ever."""

    logs: int | None = Field(default=None, ge=0, le=36_500)
    rollouts: int | None = Field(default=None, ge=0, le=36_500)
    """Completions kept for people to read."""
    token_views: int | None = Field(default=None, ge=0, le=36_500)
    checkpoints: int | None = Field(default=None, ge=0, le=36_500)
    """Training checkpoints; exported models stay."""


class DueRemoval(WireModel):
    """Something that the next pass of housekeeping would remove."""

    experiment_id: str
    kind: Literal["logs", "rollouts", "token_views", "checkpoints"]
    ended_at: datetime
    days: int


class ProjectRetention(WireModel):
    """What holds for a project, and what would go now, oldest first."""

    project: str
    is_own: bool
    """False: the service's settings."""
    days: RetentionDays
    due: list[DueRemoval]


class RetentionOut(WireModel):
    """All policies."""

    default: RetentionDays
    projects: list[ProjectRetention]
