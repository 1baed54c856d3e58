"""The client's calls about the queue: one experiment's place, pauses, maintenance and quotas."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from api.bulk_schemas import BulkAction, BulkOrder, BulkReply
from api.client_requests import Requests
from api.cluster_schemas import ClusterDetail
from api.queue_schemas import MaintenanceOut, PriorityOut, QueueOrdersOut, QuotaOut, QuotaPage, StandingPage
from api.schemas import Experiment
from service.contract.spec import PriorityName


class QueueCalls(Requests):
    """A part of `SedrayClient`."""

    def priority(self, experiment_id: str) -> PriorityOut:
        """Every term of an experiment's place, its expected start, and what would unblock it."""
        return self._get(PriorityOut, f"/experiments/{experiment_id}/priority")

    def set_priority(self, experiment_id: str, priority: str) -> Experiment:
        """Moves it to another class."""
        return self._call(Experiment, "POST", f"/experiments/{experiment_id}/priority", json={"priority": priority})

    def hold(self, experiment_id: str, reason: str = "") -> Experiment:
        """Keeps a queued experiment from starting until it is released; it keeps its age."""
        return self._call(Experiment, "POST", f"/experiments/{experiment_id}/hold", json={"reason": reason})

    def release(self, experiment_id: str) -> Experiment:
        """Lets a held experiment start again."""
        return self._call(Experiment, "POST", f"/experiments/{experiment_id}/release")

    def order_many(
        self, action: BulkAction, ids: Sequence[str], *, priority: PriorityName | None = None, reason: str = ""
    ) -> BulkReply:
        """The same for up to 200 experiments, each done or refused by itself."""
        order = BulkOrder(action=action, ids=list(ids), priority=priority, reason=reason)
        return self._call(BulkReply, "POST", "/experiments/bulk", json=order.model_dump(mode="json"))

    def queue_orders(self) -> QueueOrdersOut:
        """Pauses and maintenance windows."""
        return self._get(QueueOrdersOut, "/queue/orders")

    def pause(self, project: str | None = None, *, reason: str = "", drain: bool = False) -> QueueOrdersOut:
        """Starts nothing new, anywhere or in one project; with `drain` what runs stops at its next checkpoint."""
        order = {"reason": reason, "drain": drain}
        return self._call(QueueOrdersOut, "POST", f"{_queue_of(project)}/pause", json=order)

    def resume(self, project: str | None = None) -> QueueOrdersOut:
        """Ends the pause of a project, or that of the whole queue."""
        return self._call(QueueOrdersOut, "POST", f"{_queue_of(project)}/resume")

    def plan_maintenance(self, starts_at: datetime, ends_at: datetime, reason: str = "") -> MaintenanceOut:
        """Nothing is started that might still run then."""
        order = {"starts_at": starts_at.isoformat(), "ends_at": ends_at.isoformat(), "reason": reason}
        return self._call(MaintenanceOut, "POST", "/queue/maintenance", json=order)

    def cancel_maintenance(self, window_id: str) -> MaintenanceOut:
        """Takes a window back."""
        return self._call(MaintenanceOut, "DELETE", f"/queue/maintenance/{window_id}")

    def quotas(self) -> QuotaPage:
        """All quotas and what is used of them."""
        return self._get(QuotaPage, "/queue/quotas")

    def standings(self) -> StandingPage:
        """What projects and their users hold, have used, are meant to get, and may have at most."""
        return self._get(StandingPage, "/queue/standings")

    def cluster(self) -> ClusterDetail:
        """Nodes, what is given out on them, actors of running experiments, and who schedules."""
        return self._get(ClusterDetail, "/cluster")

    def set_quota(self, project: str, user: str | None = None, **limits: Any) -> QuotaOut:
        """Sets the whole quota of a project, or of a user in it; what is left out has no limit."""
        path = f"/projects/{project}" + (f"/users/{user}/quota" if user else "/quota")
        return self._call(QuotaOut, "PUT", path, json=limits)


def _queue_of(project: str | None) -> str:
    return f"/projects/{project}" if project else "/queue"
