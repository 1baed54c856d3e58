"""Calls about the running of the service: what `SedrayClient` has beside the experiments themselves."""

from api.client.calls import AnyTransport, Part, call
from api.client.requests import Request, get, path, send
from api.operation_schemas import Diagnosis, ProjectRetention, RetentionDays, RetentionOut
from service.contract.certificates import DeathCertificate


class OperationCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def certificate(self, experiment_id: str, attempt_number: int) -> Request[DeathCertificate]:
        """What an ended attempt died of, and what to do about it."""
        return get(DeathCertificate, path("experiments", experiment_id, "attempts", attempt_number, "certificate"))

    @call
    def retention(self, project: str) -> Request[ProjectRetention]:
        """How long a project's leftovers are kept, and what would go now; removes nothing."""
        return get(ProjectRetention, path("projects", project, "retention"))

    @call
    def set_retention(self, project: str, days: RetentionDays | None) -> Request[ProjectRetention]:
        """A project's own policy; None takes it away."""
        where = path("projects", project, "retention")
        if days is None:
            return send(ProjectRetention, "DELETE", where)
        return send(ProjectRetention, "PUT", where, days.model_dump())

    @call
    def all_retention(self) -> Request[RetentionOut]:
        """The same of every project; for admins."""
        return get(RetentionOut, path("retention"))

    @call
    def diagnosis(self) -> Request[Diagnosis]:
        """Whether the service and all that it stands on are well; for admins."""
        return get(Diagnosis, path("diagnosis"))
