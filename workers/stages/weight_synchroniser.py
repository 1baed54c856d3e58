"""Weight sync over all engines: deliver, score the probe on both sides, compare, and only then let rollouts out.

    trainer     export ──────────> scores the probe ──────────┐
    engines     pause ──> load ──> go on, probe first ────────┴──> the same? ──> confirmed: completions leave
                                                                      └──> no: the engine is replaced, and if
                                                                           all of them differ, the attempt ends

An engine that fails in any way is retired by the pool, which starts another one; that one gets the same weights, and is
verified in the same way, before it gets a request. Joining and updates exclude each other.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from service.contract.weight_sync import WeightSyncSpec
from workers.actors.vllm_adapter import EngineFailed
from workers.placement import ActorDied, DeadlineExceeded
from workers.stages.engine_roster import Member
from workers.stages.engine_supervisor import OnJoin
from workers.stages.weight_probe import Probe, Scores, Tokens, largest_gap
from workers.stages.weight_transports import Delivery, Parcel, Transport
from workers.weight_sync import UpdateReport, WeightSyncFailed

logger = logging.getLogger(__name__)

ENGINE_LOST = (ActorDied, EngineFailed, DeadlineExceeded)
_NAMES_SHOWN = 5


class Scorer(Protocol):
    """What weight sync asks of the trainer beside its weights."""

    @property
    def weights_deadline_s(self) -> float:
        """How long the weights may take from one place to the next, for all that is known of their size."""

    def begin_scores(self, sequences: tuple[Tokens, ...]) -> Callable[[], Scores]:
        """Score sequences under the present weights, from the second token on; the answer is waited for later."""


class Engines(Protocol):
    """What it asks of the pool."""

    def members(self) -> list[Member]: ...
    def retire(self, member: Member, error: Exception) -> None: ...
    def set_on_join(self, on_join: OnJoin) -> None: ...
    def undisturbed(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """What the engines hold."""

    version: int
    scores: Scores
    """The trainer's, of the probe."""


class WeightSynchroniser:
    """`roles.WeightSync`."""

    def __init__(
        self,
        *,
        trainer: Scorer,
        engines: Engines,
        transport: Transport,
        probe: Callable[[], Probe],
        settings: WeightSyncSpec,
    ) -> None:
        self._trainer, self._engines, self._transport = trainer, engines, transport
        self._probe = probe
        self._due = ChecksumsDue(settings.checksum_steps)
        self._served: _Served | None = None
        engines.set_on_join(self.bring_up_to_date)

    def __call__(self, version: int) -> dict[str, float]:
        """See `roles.WeightSync`. Raises WeightSyncFailed if all engines that took the weights hold wrong ones.

        Where all engines are lost on the way, those that replace them take the weights when they join.
        """
        probe = self._probe()
        with self._engines.undisturbed():
            hashed = self._due.now()
            deadline_s = self._trainer.weights_deadline_s
            parcel = Parcel(version=version, probe=probe.sequences, with_digests=hashed, deadline_s=deadline_s)
            began = time.monotonic()
            delivery = self._transport.deliver(parcel, self._engines.members())
            delivered_s = time.monotonic() - began
            # The trainer scores while the engines load.
            scores = self._trainer.begin_scores(probe.sequences) if probe.sequences else _no_scores
            found = Outcomes.of(delivery, deadline_s)
            self._transport.keep()
            taken_at = time.monotonic()
            self._served = _Served(version=version, scores=scores())
            gap = self._compare(found, probe)
            if hashed:
                for member, error in self._require_equal(list(found.reports)).items():
                    found.fail(member, error)
            self._settle(found, version)
            self._due.done(hashed=hashed and bool(found.reports))
            verify_s = time.monotonic() - taken_at
        metrics = _seconds(found.reports.values(), delivered_s, delivery.gather_s, verify_s)
        metrics |= {} if gap is None else {"weight_sync/probe_logprob_abs_diff_max": gap}
        about = {"version": version, "num_engines": len(found.reports), "hashed": hashed}
        logger.info("weights synced", extra=about | {"metrics": metrics})
        return metrics

    def trainer_replaced(self) -> None:
        """See `roles.WeightSync`. What engines hold stays known; a trainer that was just loaded is verified in full."""
        self._transport.trainer_replaced()
        self._due.at_next()

    def bring_up_to_date(self, member: Member) -> None:
        """Give an engine that joins what the others have; before the first sync that is what it has started with.

        Raises WeightSyncFailed if it does not hold them then, and whatever else the engine may fail with.
        """
        served = self._served
        if served is None:
            return
        call = self._transport.hand_over(member)
        report = member.engine.wait(call, "a weight update", self._trainer.weights_deadline_s)
        probe = self._probe()
        _require_gap(member, largest_gap(served.scores, report.probe_logprobs), probe.limit)
        failed = self._require_equal([*self._engines.members()[:1], member])
        failed |= self._confirm([] if member in failed else [member], served.version)
        if member in failed:
            raise failed[member]
        # The trainer, which would have to hash its tensors, may be at work; so the next sync is a hashed one.
        self._due.at_next()

    def _compare(self, found: "Outcomes", probe: Probe) -> float | None:
        """Engines whose scores are not the trainer's are refused; returns the largest gap of all."""
        assert self._served is not None
        gaps = {
            member: largest_gap(self._served.scores, report.probe_logprobs) for member, report in found.reports.items()
        }
        for member, gap in gaps.items():
            try:
                _require_gap(member, gap, probe.limit)
            except WeightSyncFailed as error:
                found.fail(member, error)
        return max(gaps.values()) if gaps and probe.sequences else None

    def _require_equal(self, members: Sequence[Member]) -> dict[Member, Exception]:
        """Raises WeightSyncFailed if the parameters in vLLM's memory differ between engines; returns lost engines."""
        calls = [(member, member.engine.begin_checksums()) for member in members if len(members) > 1]
        lost: dict[Member, Exception] = {}
        checksums: dict[int, Mapping[str, str]] = {}
        for member, call in calls:
            try:
                deadline_s = self._trainer.weights_deadline_s
                checksums[member.number] = member.engine.wait(call, "checksums of the weights", deadline_s)
            except ENGINE_LOST as error:
                lost[member] = error
        for (one, wanted), (other, held) in pairwise(checksums.items()):
            names = sorted(name for name in wanted.keys() | held.keys() if wanted.get(name) != held.get(name))
            if names:
                raise WeightSyncFailed(
                    f"rollout engines {one} and {other} were given the same weights and hold different ones: "
                    f"{', '.join(names[:_NAMES_SHOWN])} ({len(names)} in all)"
                )
        return lost

    def _settle(self, found: "Outcomes", version: int) -> None:
        """Let the good ones go on and the others be replaced. Raises WeightSyncFailed if all that live are wrong."""
        for member, error in self._confirm(list(found.reports), version).items():
            found.fail(member, error)
        refusal = next((error for error in found.failures.values() if isinstance(error, WeightSyncFailed)), None)
        if refusal is not None and not found.reports:
            raise refusal
        for member, error in found.failures.items():
            logger.warning("weights not taken", extra={"engine": member.number, "error": str(error)})
            self._engines.retire(member, error)

    def _confirm(self, members: Sequence[Member], version: int) -> dict[Member, Exception]:
        """Let out what they generate; returns those that have failed meanwhile."""
        failed: dict[Member, Exception] = {}
        for member, call in [(member, member.engine.begin_confirm(version)) for member in members]:
            try:
                member.engine.wait(call, "the confirmation of a weight update", self._trainer.weights_deadline_s)
            except (WeightSyncFailed, *ENGINE_LOST) as error:
                failed[member] = error
        return failed


class ChecksumsDue:
    """Which syncs are hashed: the first, the first after an engine has joined, and every so many."""

    def __init__(self, every: int | None) -> None:
        self._every = every
        self._must = True
        self._num_without = 0

    def now(self) -> bool:
        """Whether the sync that begins is one of them."""
        return self._must or (self._every is not None and self._num_without + 1 >= self._every)

    def at_next(self) -> None:
        """The next one is, whatever else."""
        self._must = True

    def done(self, *, hashed: bool) -> None:
        """A sync has succeeded."""
        if hashed:
            self._must, self._num_without = False, 0
        else:
            self._num_without += 1


class Outcomes:
    """What has become of a delivery, by engine."""

    def __init__(self) -> None:
        self.reports: dict[Member, UpdateReport] = {}
        self.failures: dict[Member, Exception] = {}
        """WeightSyncFailed: it does not hold the weights. Any other: it was lost, which says nothing about them."""

    @classmethod
    def of(cls, delivery: Delivery, deadline_s: float) -> "Outcomes":
        """Waits for all engines; each has the same time, since all have begun."""
        found = cls()
        found.failures |= dict(delivery.failures)
        limit = time.monotonic() + deadline_s
        for member, call in delivery.calls:
            try:
                left_s = max(0.0, limit - time.monotonic())
                found.reports[member] = member.engine.wait(call, "a weight update", left_s)
            except (WeightSyncFailed, *ENGINE_LOST) as error:
                found.failures[member] = error
        return found

    def fail(self, member: Member, error: Exception) -> None:
        """It is not what it seemed."""
        del self.reports[member]
        self.failures[member] = error


def _require_gap(member: Member, gap: float, limit: float) -> None:
    if not gap <= limit:
        raise WeightSyncFailed(
            f"rollout engine {member.number} does not hold the trainer's weights: log-probs of the probe's tokens "
            f"differ by up to {gap:.3g} nats, and {limit:g} is allowed; if the kernels of trainer and engine differ "
            "that much without any fault, raise rl.weight_sync.probe_max_logprob_diff"
        )


def _no_scores() -> Scores:
    return ()


def _seconds(
    reports: Collection[UpdateReport], delivered_s: float, gather_s: float, verify_s: float
) -> dict[str, float]:
    """By phase; of the slowest engine where engines work side by side."""
    seconds = {
        "gather": gather_s,
        "transfer": delivered_s - gather_s,
        "pause": max((report.pause_s for report in reports), default=0.0),
        "load": max((report.load_s for report in reports), default=0.0),
        "verify": max((report.verify_s for report in reports), default=0.0) + verify_s,
    }
    return {f"timing_s/weight_sync/{phase}": spent for phase, spent in seconds.items()}
