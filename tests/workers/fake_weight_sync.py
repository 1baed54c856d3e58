"""A trainer, engines and a pool without Ray, torch or vLLM, as weight sync sees them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.stages.engine_roster import Member
from workers.stages.engine_supervisor import OnJoin
from workers.weight_sync import SendReport, UpdateOrder, UpdateReport, WeightManifest

Tokens = tuple[int, ...]


@dataclass
class FakeCall:
    """As `remote_engine.Call` and `TrainerCall`: comes to a value, or to an exception."""

    value: Any

    def result(self) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


@dataclass
class FakeEngine:
    """As `remote_engine.RemoteEngine`: takes what it is given, and scores -weight for each token."""

    number: int
    host: str = "somewhere"
    weight: float = 0.0
    """What it holds; a trainer that holds the same scores the same."""
    fault: float = 0.0
    """What its weights differ by from those that it was given."""
    failure: BaseException | None = None
    late_failure: BaseException | None = None
    """Beyond its update."""
    checksums: dict[str, str] | BaseException = field(default_factory=lambda: {"embed": "a1"})
    orders: list[tuple[UpdateOrder, Any]] = field(default_factory=list)
    confirmed: list[int] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def handle(self) -> str:
        return f"actor {self.number}"

    def begin_update(self, order: UpdateOrder, content: Any = None) -> FakeCall:
        self.calls.append("update")
        self.orders.append((order, content))
        return FakeCall(self.failure or self._report(order.probe, float(order.version)))

    def begin_end_update(self, version: int, probe: tuple[Tokens, ...]) -> FakeCall:
        self.calls.append("end")
        return FakeCall(self.failure or self._report(probe, float(version)))

    def begin_confirm(self, version: int) -> FakeCall:
        self.confirmed.append(version)
        return FakeCall(self.late_failure)

    def begin_checksums(self) -> FakeCall:
        self.calls.append("checksums")
        return FakeCall(self.checksums)

    def wait(self, call: FakeCall, what: str, deadline_s: float) -> Any:
        assert what and deadline_s > 0
        return call.result()

    def _report(self, probe: tuple[Tokens, ...], weight: float) -> UpdateReport:
        self.weight = weight + self.fault
        scores = tuple((-self.weight,) * (len(tokens) - 1) for tokens in probe)
        return UpdateReport(pause_s=0.1, load_s=0.2, verify_s=0.3, probe_logprobs=scores)


class FakeTrainer:
    """As `RemoteTrainer`: its weight is its version."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.log: list[str] = []
        self.digests_wanted: list[bool] = []
        self.write_error: OSError | None = None
        self.send_failures: list[str | None] = []
        self.join_failure: str | None = None
        self.groups: list[list[str]] = []
        self.names: list[str] = []

    weights_deadline_s = 60.0

    def begin_write_weights(self, path: str, *, with_digests: bool) -> FakeCall:
        self.log.append(f"write {Path(path).name}")
        self.digests_wanted.append(with_digests)
        if self.write_error is None:
            Path(path).write_bytes(b"weights")
        return FakeCall(self.write_error or self._manifest())

    def begin_put_weights(self, *, with_digests: bool) -> tuple[FakeCall, str]:
        self.log.append("put")
        self.digests_wanted.append(with_digests)
        return FakeCall(self._manifest()), f"reference {len(self.digests_wanted)}"

    def begin_scores(self, sequences: tuple[Tokens, ...]) -> Callable[[], list[list[float]]]:
        self.log.append("score")
        return lambda: [[-self.weight] * (len(tokens) - 1) for tokens in sequences]

    def join_engines(self, engines: Sequence[Any], names: Sequence[str]) -> str | None:
        if list(names) == self.names:
            return None
        self.groups.append(list(engines))
        self.names = [] if self.join_failure else list(names)
        return self.join_failure

    def send_weights(self, *, with_digests: bool) -> SendReport:
        self.log.append("send")
        failure = self.send_failures.pop(0) if self.send_failures else None
        if failure is not None:
            self.names = []
        return SendReport(gather_s=0.5, failure=failure)

    def _manifest(self) -> WeightManifest:
        return WeightManifest(num_tensors=1, num_bytes=7, gather_s=0.5)


class FakePool:
    """As `EnginePool`."""

    def __init__(self, num_engines: int = 1) -> None:
        self.ready = [a_member(number) for number in range(num_engines)]
        self.retired: list[tuple[int, Exception]] = []
        self.on_join: OnJoin = lambda member: None
        self.is_undisturbed = False

    @property
    def engines(self) -> list[FakeEngine]:
        return [member.engine for member in self.ready]  # type: ignore[misc]

    def members(self) -> list[Member]:
        return list(self.ready)

    def retire(self, member: Member, error: Exception) -> None:
        self.ready.remove(member)
        self.retired.append((member.number, error))

    def set_on_join(self, on_join: OnJoin) -> None:
        self.on_join = on_join

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        self.is_undisturbed = True
        yield
        self.is_undisturbed = False

    def join(self, number: int, **changes: Any) -> FakeEngine:
        """An engine starts and joins."""
        member = a_member(number, **changes)
        self.on_join(member)
        self.ready.append(member)
        return member.engine  # type: ignore[return-value]


def a_member(number: int, **changes: Any) -> Member:
    """Ready."""
    engine: Any = FakeEngine(number, **changes)
    start: Any = FakeCall(None)
    return Member(engine=engine, start=start, is_first=True, since_s=0.0)
