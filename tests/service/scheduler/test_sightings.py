"""What the scheduler remembers between its looks."""

from datetime import UTC, datetime, timedelta

from service.scheduler.ray_jobs import ClusterView
from service.scheduler.sightings import ApiWatch, Sightings
from service.scheduler.verdict import Absent
from service.storage.processes import Uptime

VIEW = ClusterView(session_name="session_1", num_cpus=2, num_gpus=0, num_nodes=1)
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def test_absence_is_counted_through_a_silence_of_ray() -> None:
    sightings = Sightings()
    sightings.saw("a", None, VIEW, at(0))
    assert sightings.unreachable(at(3)).since == at(3)
    assert sightings.unreachable(at(6)).since == at(3)
    assert sightings.saw("a", None, VIEW, at(9)) == Absent(times_seen=2, session_name="session_1")
    assert sightings.unreachable(at(12)).since == at(12)


def test_forgotten_attempts_begin_anew() -> None:
    sightings = Sightings()
    sightings.saw("a", None, VIEW, at(0))
    sightings.keep_only([])
    assert sightings.saw("a", None, VIEW, at(3)) == Absent(times_seen=1, session_name="session_1")


def up(started: float, seen: float) -> Uptime:
    return Uptime(started_at=at(started), seen_at=at(seen))


def test_the_apis_uptime_begins_when_the_scheduler_first_sees_it() -> None:
    watch = ApiWatch()
    assert watch.up_since(up(-900, -1), at(0)) == at(0)
    assert watch.up_since(up(-900, 2), at(3)) == at(0)


def test_a_restarted_api_begins_a_new_uptime() -> None:
    watch = ApiWatch()
    watch.up_since(up(-900, 0), at(0))
    assert watch.up_since(up(6, 7), at(8)) == at(6)


def test_an_api_that_hung_was_not_up() -> None:
    watch = ApiWatch()
    watch.up_since(up(-900, 0), at(0))
    assert watch.up_since(None, at(20)) is None
    assert watch.up_since(up(-900, 30), at(31)) == at(31)
