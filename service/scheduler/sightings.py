"""What this scheduler has seen over time and no row holds: repeated observations, and the API's uptime."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from service.scheduler.ray_jobs import ClusterView, RayJob, RayJobStatus
from service.scheduler.verdict import Absent, Observation, Present, Unreachable
from service.storage.processes import Uptime


@dataclass(slots=True)
class _Sight:
    status: RayJobStatus | None
    since: datetime
    times_seen: int
    times_unwatched: int = 0


class Sightings:
    """Turns single looks at Ray into observations with a history; a new scheduler begins without one."""

    def __init__(self) -> None:
        self._sights: dict[str, _Sight] = {}
        self._unreachable_since: datetime | None = None

    def unreachable(self, now: datetime) -> Unreachable:
        """Ray did not answer. What was seen before is kept: silence neither confirms nor refutes it."""
        self._unreachable_since = self._unreachable_since or now
        return Unreachable(since=self._unreachable_since)

    def saw(self, attempt_id: str, job: RayJob | None, view: ClusterView, now: datetime) -> Observation:
        """Ray answered about this attempt's job; `view` is what it said of the cluster just before."""
        self._unreachable_since = None
        status = job.status if job else None
        sight = self._sights.get(attempt_id)
        if sight is None or sight.status is not status:
            sight = self._sights[attempt_id] = _Sight(status=status, since=now, times_seen=0)
        sight.times_seen += 1
        if job is None:
            return Absent(times_seen=sight.times_seen, session_name=view.session_name)
        unwatched = job.status is RayJobStatus.RUNNING and not view.watches_over(job)
        sight.times_unwatched = sight.times_unwatched + 1 if unwatched else 0
        return Present(
            job=job,
            since=sight.since,
            times_unwatched=sight.times_unwatched,
            supervisor_waits=view.supervisors.get(job.submission_id) == "PENDING_CREATION",
        )

    def keep_only(self, attempt_ids: Collection[str]) -> None:
        """Forgets the others."""
        self._sights = {attempt_id: sight for attempt_id, sight in self._sights.items() if attempt_id in attempt_ids}


class ApiWatch:
    """Since when drivers can reach the service without a break, as far as this scheduler has seen."""

    def __init__(self) -> None:
        self._up_since: datetime | None = None

    def up_since(self, uptime: Uptime | None, now: datetime) -> datetime | None:
        """None while no process of the API is alive.

        After a silence, the scheduler's own included, the time begins with the first sign of life that it sees.
        """
        if uptime is None:
            self._up_since = None
        elif self._up_since is None:
            self._up_since = now
        else:
            self._up_since = max(self._up_since, uptime.started_at)
        return self._up_since
