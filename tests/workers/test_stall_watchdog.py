import time
from collections.abc import Callable

import pytest

from service.contract.messages import MAX_DETAIL_CHARACTERS, RunEvent
from service.contract.stall import StallSpec
from tests.factories import NOW
from tests.workers.fake_actors import RecordedReports
from workers.activity.inspection import ActorState, ProcessState
from workers.activity.record import Activity, Work
from workers.pipeline.culprit import find_culprit
from workers.pipeline.phase_times import PhaseTimes
from workers.pipeline.stall_watchdog import Remedies, Stalled, StallWatchdog

GENERATING, TRAINING = ("rl", "generating"), ("rl", "training")

GONE = ActorState(activity=Activity(actor="rollout-1", pid=1, work=()), processes=())


def actor(name: str, since: float | None = None, *, stopped: bool = False, stacks: str = "frame") -> ActorState:
    work = () if since is None else (Work(method="generate", subject="prompts 3", since=since),)
    process = ProcessState(pid=7, name="ray", is_stopped=stopped, stacks=stacks)
    return ActorState(activity=Activity(actor=name, pid=7, work=work), processes=(process,))


def test_a_phase_is_overdue_beyond_its_median_and_the_least() -> None:
    times, now = PhaseTimes(), 0.0
    for took in (10.0, 1.0, 12.0):
        times.begin(GENERATING, 1, now)
        times.begin(TRAINING, 1, now + took)
        now += took + 0.001
    times.begin(GENERATING, 4, now)
    assert times.overdue(now + 99.0, factor=10.0, least_s=5.0) is None
    found = times.overdue(now + 101.0, factor=10.0, least_s=5.0)
    assert found is not None and (found.phase, found.step) == (GENERATING, 4)
    assert times.overdue(now + 101.0, factor=10.0, least_s=200.0) is None


def test_a_phase_that_is_hardly_known_and_notes_between_phases_say_nothing() -> None:
    times = PhaseTimes()
    for step in range(3):
        times.begin(TRAINING, step, 100.0 * step)
        times.begin(GENERATING, step, 100.0 * step + 0.01)
    assert times.usual_s(TRAINING) is None
    assert times.overdue(1e6, factor=2.0, least_s=1.0) is None


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([actor("trainer-0"), actor("rollout-0", 5.0), actor("rollout-1", 3.0)], "rollout-1"),
        ([actor("trainer-0", stopped=True), actor("rollout-0", 5.0)], "trainer-0"),
        ([GONE, actor("rollout-0", 1.0)], "rollout-1"),
        ([actor("trainer-0")], None),
        ([], None),
    ],
)
def test_the_culprit_is_gone_or_stopped_or_the_longest_at_work(states: list[ActorState], expected: str | None) -> None:
    found = find_culprit(states, 10.0)
    assert (found.actor if found else None) == expected


def test_one_incident_is_one_event_that_names_the_engine_which_is_replaced() -> None:
    replaced: list[tuple[int, str]] = []
    reports = run_into_stall(
        "replace", lambda: [actor("rollout-2", 1.0)], engine=lambda number, why: replaced.append((number, why)) or True
    )
    (kind, detail), *others = reports.events
    assert not others and kind == "stalled"
    assert (detail["culprit"], detail["action"]) == ("rollout-2", "it is being replaced")
    assert [number for number, _ in replaced] == [2]


def test_a_stalled_trainer_is_replaced_as_a_whole() -> None:
    causes: list[str] = []
    run_into_stall("replace", lambda: [actor("trainer-1", 1.0)], trainer=lambda why: causes.append(why) or True)
    assert causes == ["the run stands still at rl generating"]


def test_reporting_does_nothing_else() -> None:
    reports = run_into_stall("report", lambda: [actor("rollout-0", 1.0)])
    assert reports.events[0][1]["action"] == "nothing was done"


def test_failing_ends_the_run_with_what_it_waits_for() -> None:
    with pytest.raises(Stalled, match="rl generating, step 3; it waits for rollout-0"):
        run_into_stall("fail", lambda: [actor("rollout-0", 1.0)])


def test_an_event_of_many_actors_with_long_stacks_is_short_enough() -> None:
    many = [actor(f"rollout-{number}", 1.0 + number, stacks='"line"\n' * 5000) for number in range(40)]
    reports = run_into_stall("report", lambda: many)
    kind, detail = reports.events[0]
    assert len(RunEvent(ts=NOW, kind=kind, message="x", detail=detail).model_dump_json()) < 2 * MAX_DETAIL_CHARACTERS


def test_a_watchdog_that_cannot_look_leaves_the_run_alone() -> None:
    def broken() -> list[ActorState]:
        raise OSError("no cluster")

    assert run_into_stall("replace", broken).events == []


def run_into_stall(
    action: str,
    inspect: Callable[[], list[ActorState]],
    *,
    engine: Callable[[int, str], bool] = lambda number, why: True,
    trainer: Callable[[str], bool] = lambda why: True,
) -> RecordedReports:
    """Three short phases, then one that does not end until the watchdog has had its say."""
    reports = RecordedReports()
    spec = StallSpec.model_validate({"factor": 1.5, "least_s": 0.3, "action": action})
    remedies = Remedies(inspect=inspect, replace_engine=engine, replace_trainer=trainer)
    with StallWatchdog(reports, spec, remedies, poll_s=0.02) as watchdog:
        for step in range(3):
            watchdog.progress("rl", "generating", step, 9)
            time.sleep(0.06)
        watchdog.progress("rl", "generating", 3, 9)
        limit = time.monotonic() + 1.0
        while time.monotonic() < limit:
            time.sleep(0.02)
            watchdog.check()
    return reports
