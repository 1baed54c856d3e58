"""Calls about the running of the service: what `SedrayClient` has beside the experiments themselves."""

from urllib.parse import quote

from api.client.requests import Requests
from api.operation_schemas import Diagnosis, LogSources, ProjectRetention, RetentionDays
from service.contract.certificates import DeathCertificate


class OperationCalls(Requests):
    """A part of `SedrayClient`."""

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

    def diagnosis(self) -> Diagnosis:
        """Whether the service and all that it stands on are well; for admins."""
        return self._get(Diagnosis, "/diagnosis")
