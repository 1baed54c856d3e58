"""What keeps an experiment from being considered at all, whatever is free."""

from collections.abc import Sequence
from datetime import UTC, datetime

from service.contract.waiting import WaitCode
from service.scheduler.decision.facts import UNBLOCKED, Blockers, Pause, QueueEntry
from service.scheduler.decision.outcome import Reason

_ENDED_BADLY = ("failed", "cancelled", "unknown")


def why_not_eligible(entry: QueueEntry, pauses: Sequence[Pause], now: float) -> Reason | None:
    """The first thing that stands in the way; None if the experiment may be considered."""
    blockers = entry.blockers
    if blockers is not UNBLOCKED and (reason := _own_reason(blockers, now)):
        return reason
    for pause in pauses:
        if pause.project is None or pause.project == entry.project:
            what = "the queue" if pause.project is None else f"project {pause.project}"
            how = "drained" if pause.drains else "paused"
            return Reason(code=WaitCode.PAUSED, text=f"{what} is {how}: {pause.reason}")
    return None


def _own_reason(blockers: Blockers, now: float) -> Reason | None:
    if blockers.held is not None:
        return Reason(code=WaitCode.HELD, text=blockers.held)
    if blockers.releasing is not None:
        text = f"waits until Ray let go of attempt {blockers.releasing}"
        return Reason(code=WaitCode.RELEASING, text=text)
    if blockers.back_off_until is not None and blockers.back_off_until > now:
        text = f"its last attempt failed; tried again at {shown_time(blockers.back_off_until)}"
        return Reason(code=WaitCode.BACK_OFF, text=text)
    if blockers.not_before is not None and blockers.not_before > now:
        text = f"may not start before {shown_time(blockers.not_before)}"
        return Reason(code=WaitCode.NOT_BEFORE, text=text)
    if blockers.dependencies:
        return _dependency_reason(blockers)
    if blockers.unknown_content is not None:
        return Reason(code=WaitCode.CONTENT, text=blockers.unknown_content)
    return None


def _dependency_reason(blockers: Blockers) -> Reason:
    failed = [dependency for dependency in blockers.dependencies if dependency.status in _ENDED_BADLY]
    if failed and not blockers.any_end_will_do:
        named = ", ".join(f"{dependency.id} is {dependency.status}" for dependency in failed)
        return Reason(code=WaitCode.DEPENDENCY_FAILED, text=f"depends on success, but {named}", behind=failed[0].id)
    first = blockers.dependencies[0]
    more = f" and {len(blockers.dependencies) - 1} more" if len(blockers.dependencies) > 1 else ""
    return Reason(
        code=WaitCode.DEPENDENCY, text=f"waits for {first.id}, which is {first.status}{more}", behind=first.id
    )


def shown_time(moment: float) -> str:
    """As people read it; to the minute, so that the words do not change with every pass."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
