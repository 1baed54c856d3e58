"""The client's calls about the queue: one experiment's place, pauses, maintenance and quotas."""

from collections.abc import Sequence
from datetime import datetime

from api.bulk_schemas import BulkAction, BulkOrder, BulkReply
from api.client.calls import AnyTransport, Part, call
from api.client.requests import Request, get, path, send
from api.cluster_schemas import ClusterDetail
from api.queue_schemas import MaintenanceOut, PriorityOut, QueueOrdersOut, QuotaOrder, QuotaOut, QuotaPage, StandingPage
from api.schemas import Experiment, QueueOut
from service.contract.spec import PriorityName


class QueueCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def queue(self) -> Request[QueueOut]:
        """Who runs and who waits, and why."""
        return get(QueueOut, path("queue"))

    @call
    def priority(self, experiment_id: str) -> Request[PriorityOut]:
        """Every term of an experiment's place, its expected start, and what would unblock it."""
        return get(PriorityOut, path("experiments", experiment_id, "priority"))

    @call
    def set_priority(self, experiment_id: str, priority: str) -> Request[Experiment]:
        """Moves it to another class."""
        return send(Experiment, "POST", path("experiments", experiment_id, "priority"), {"priority": priority})

    @call
    def hold(self, experiment_id: str, reason: str = "") -> Request[Experiment]:
        """Keeps a queued experiment from starting until it is released; it keeps its age."""
        return send(Experiment, "POST", path("experiments", experiment_id, "hold"), {"reason": reason})

    @call
    def release(self, experiment_id: str) -> Request[Experiment]:
        """Lets a held experiment start again."""
        return send(Experiment, "POST", path("experiments", experiment_id, "release"))

    @call
    def queue_orders(self) -> Request[QueueOrdersOut]:
        """Pauses and maintenance windows."""
        return get(QueueOrdersOut, path("queue", "orders"))

    @call
    def pause(self, project: str | None = None, *, reason: str = "", drain: bool = False) -> Request[QueueOrdersOut]:
        """Starts nothing new, anywhere or in one project; with `drain` what runs stops at its next checkpoint."""
        order = {"reason": reason, "drain": drain}
        return send(QueueOrdersOut, "POST", f"{_queue_of(project)}/pause", order)

    @call
    def resume(self, project: str | None = None) -> Request[QueueOrdersOut]:
        """Ends the pause of a project, or that of the whole queue."""
        return send(QueueOrdersOut, "POST", f"{_queue_of(project)}/resume")

    @call
    def plan_maintenance(self, starts_at: datetime, ends_at: datetime, reason: str = "") -> Request[MaintenanceOut]:
        """Nothing is started that might still run then."""
        order = {"starts_at": starts_at.isoformat(), "ends_at": ends_at.isoformat(), "reason": reason}
        return send(MaintenanceOut, "POST", path("queue", "maintenance"), order)

    @call
    def cancel_maintenance(self, window_id: str) -> Request[MaintenanceOut]:
        """Takes a window back."""
        return send(MaintenanceOut, "DELETE", path("queue", "maintenance", window_id))

    @call
    def standings(self) -> Request[StandingPage]:
        """What projects and their users hold, have used, are meant to get, and may have at most."""
        return get(StandingPage, path("queue", "standings"))

    @call
    def cluster(self) -> Request[ClusterDetail]:
        """Nodes, what is given out on them, actors of running experiments, and who schedules."""
        return get(ClusterDetail, path("cluster"))

    @call
    def order_many(
        self, action: BulkAction, ids: Sequence[str], *, priority: PriorityName | None = None, reason: str = ""
    ) -> Request[BulkReply]:
        """The same for up to 200 experiments, each done or refused by itself."""
        order = BulkOrder(action=action, ids=list(ids), priority=priority, reason=reason)
        return send(BulkReply, "POST", path("experiments", "bulk"), order.model_dump(mode="json"))

    @call
    def quotas(self) -> Request[QuotaPage]:
        """All quotas and what is used of them."""
        return get(QuotaPage, path("queue", "quotas"))

    @call
    def set_quota(self, project: str, quota: QuotaOrder, *, user: str | None = None) -> Request[QuotaOut]:
        """Sets the whole quota of a project, or of a user in it; what is left out has no limit."""
        where = path("projects", project) + (path("users", user, "quota") if user else path("quota"))
        return send(QuotaOut, "PUT", where, quota.model_dump())


def _queue_of(project: str | None) -> str:
    return path("projects", project) if project else path("queue")
