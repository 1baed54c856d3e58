"""What an actor is at, in a file that others can read while it computes, hangs or is stopped.

    actor method begins ──> its name, subject and time stand in the file ──> ends: gone from it

A call to the actor could not tell: it would wait behind the one that hangs, and a stopped process answers nothing. The
file lies in the temporary folder of the actor's machine. Files of processes that are gone are removed by the next one.
"""

import inspect
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

FOLDER = "sedray-activity"
_SUBJECT = "__activity_subject__"
_MOST_SHOWN = 8

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One call that is under way."""

    method: str
    subject: str
    """What it is about: a step, prompts; empty where nothing is worth saying."""
    since: float
    """Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What a file says."""

    actor: str
    """`trainer-0`, `rollout-2`."""
    pid: int
    work: tuple[Work, ...]
    """The oldest calls first; none while the actor waits to be asked."""


def about(describe: Callable[..., str]) -> Callable[[Method], Method]:
    """Marks a method: `describe`, called with its arguments, says what the call is about."""

    def mark(method: Method) -> Method:
        setattr(method, _SUBJECT, describe)
        return method

    return mark


def watched(cls: type, attempt: str, actor: str) -> type:
    """A subclass whose public methods stand in the actor's file while they run. `attempt` is any name of it."""
    methods = {
        name: _watched(method)
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        self.__activity__ = ActivityFile(attempt, actor)
        cls.__init__(self, *args, **kwargs)  # type: ignore[misc]  # the class that is watched, whatever it is

    # The class's own name and module, so that Ray's logs and processes are called after it.
    return type(cls.__name__, (cls,), {**methods, "__init__": __init__, "__module__": cls.__module__})


class ActivityFile:
    """The file of this process; may be written from any thread."""

    def __init__(self, attempt: str, actor: str) -> None:
        self._actor = actor
        self._path = folder() / f"{attempt}-{actor}.json"
        self._calls: dict[int, Work] = {}
        self._numbers = count()
        self._lock = threading.Lock()
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        _remove_abandoned(self._path.parent)
        self._write()

    @contextmanager
    def doing(self, method: str, subject: str) -> Iterator[None]:
        """The call stands in the file as long as the block lasts."""
        number = next(self._numbers)
        with self._lock:
            self._calls[number] = Work(method=method, subject=subject, since=time.time())
            self._write()
        try:
            yield
        finally:
            with self._lock:
                del self._calls[number]
                self._write()

    def _write(self) -> None:
        work = tuple(self._calls.values())[:_MOST_SHOWN]
        draft = self._path.with_suffix(f".{os.getpid()}")
        # What an actor is at must never end it: a full disk loses the file, not the run.
        with suppress(OSError):
            draft.write_text(json.dumps(asdict(Activity(actor=self._actor, pid=os.getpid(), work=work))))
            draft.replace(self._path)


def read_activities(attempt: str) -> list[Activity]:
    """Those of the attempt's actors on this machine."""
    found = (_read(path) for path in sorted(folder().glob(f"{attempt}-*.json")))
    return [activity for activity in found if activity is not None]


def folder() -> Path:
    """Where the files lie on this machine, for this user."""
    return Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid()}"


def _read(path: Path) -> Activity | None:
    try:
        body = json.loads(path.read_text())
        return Activity(actor=body["actor"], pid=body["pid"], work=tuple(Work(**work) for work in body["work"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob("*.json"):
        activity = _read(path)
        if activity is not None and not Path(f"/proc/{activity.pid}").exists():
            path.unlink(missing_ok=True)


def _watched(method: Callable[..., Any]) -> Callable[..., Any]:
    describe: Callable[..., str] = getattr(method, _SUBJECT, lambda *args, **kwargs: "")

    if inspect.iscoroutinefunction(method):

        @wraps(method)
        async def call_later(self: Any, *args: Any, **kwargs: Any) -> Any:
            with self.__activity__.doing(method.__name__, describe(*args, **kwargs)):
                return await method(self, *args, **kwargs)

        return call_later

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.__activity__.doing(method.__name__, describe(*args, **kwargs)):
            return method(self, *args, **kwargs)

    return call
