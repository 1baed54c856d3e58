import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from workers.activity import record
from workers.activity.record import ActivityFile, about, read_activities, watched


class Machine:
    """Does things."""

    def __init__(self, *, size: int) -> None:
        self.size = size
        self.seen: list[str] = []

    @about(lambda step, *_, **__: f"step {step}")
    def turn(self, step: int) -> int:
        self.seen = shown()
        return step + self.size

    async def hum(self) -> None:
        self.seen = shown()

    def fail(self) -> None:
        raise RuntimeError("broken")


def shown() -> list[str]:
    return [f"{one.actor}: {work.method} {work.subject}".strip() for one in read_activities("a1") for work in one.work]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(record, "folder", lambda: tmp_path / "activity")
    yield


def test_a_call_stands_in_the_file_while_it_runs_and_only_then() -> None:
    machine = watched(Machine, "a1", "trainer-0")(size=2)
    assert machine.turn(3) == 5
    assert machine.seen == ["trainer-0: turn step 3"]
    assert shown() == []
    asyncio.run(machine.hum())
    assert machine.seen == ["trainer-0: hum"]
    with pytest.raises(RuntimeError):
        machine.fail()
    assert shown() == []


def test_the_oldest_of_several_calls_comes_first() -> None:
    file, entered, leave = ActivityFile("a1", "rollout-1"), threading.Event(), threading.Event()

    def work() -> None:
        with file.doing("generate", "prompts 1"):
            entered.set()
            leave.wait(10.0)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(10.0)
    with file.doing("ping", ""):
        assert shown() == ["rollout-1: generate prompts 1", "rollout-1: ping"]
    leave.set()
    thread.join(10.0)
    assert shown() == []


def test_a_watched_class_travels_to_another_process_and_keeps_its_name() -> None:
    made = cloudpickle.loads(cloudpickle.dumps(watched(Machine, "a1", "trainer-0")))
    assert made.__name__ == "Machine" and issubclass(made, Machine)


def test_files_of_processes_that_are_gone_are_removed_and_other_attempts_are_not_read(tmp_path: Path) -> None:
    ActivityFile("a1", "trainer-0")
    dead = tmp_path / "activity" / "a0-trainer-0.json"
    dead.write_text('{"actor": "trainer-0", "pid": 999999999, "work": []}')
    (tmp_path / "activity" / "a1-broken.json").write_text("{")
    ActivityFile("a2", "trainer-0")
    assert not dead.exists()
    assert [one.actor for one in read_activities("a1")] == ["trainer-0"]
