"""Calls about the running of the service: what `SedrayClient` has beside the experiments themselves."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from api.operation_schemas import LogSources, ProjectRetention, RetentionDays
from service.contract.certificates import DeathCertificate

Model = TypeVar("Model", bound=BaseModel)


class OperationCalls(ABC):
    """Mixed into the client, which makes the requests."""

    @abstractmethod
    def _get(self, model: type[Model], path: str, params: Mapping[str, Any] | None = None) -> Model: ...

    @abstractmethod
    def _call(self, model: type[Model], method: str, path: str, *, json: Any = None) -> Model: ...

    def certificate(self, experiment_id: str, attempt_number: int) -> DeathCertificate:
        """What an ended attempt died of, and what to do about it."""
        return self._get(DeathCertificate, f"/experiments/{experiment_id}/attempts/{attempt_number}/certificate")

    def log_sources(self, experiment_id: str) -> LogSources:
        """Who has written log lines: the driver, its actors, the scheduler."""
        return self._get(LogSources, f"/experiments/{experiment_id}/logs/sources")

    def retention(self, project: str) -> ProjectRetention:
        """How long a project's leftovers are kept, and what would go now; removes nothing."""
        return self._get(ProjectRetention, f"/projects/{quote(project, safe='')}/retention")

    def set_retention(self, project: str, days: RetentionDays | None) -> ProjectRetention:
        """A project's own policy; None takes it away."""
        path = f"/projects/{quote(project, safe='')}/retention"
        if days is None:
            return self._call(ProjectRetention, "DELETE", path)
        return self._call(ProjectRetention, "PUT", path, json=days.model_dump())
