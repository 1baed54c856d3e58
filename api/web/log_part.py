"""The newest lines of the log for the page, which does without them while the storage does not answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import StorageUnavailable
from service.log_archive import ArchivedLine, LogFilter, LogReader

_LINES = 500
_END = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPart:
    """Lines, oldest first."""

    lines: Sequence[ArchivedLine] = ()
    next_before: int | None = None
    """Below which id older ones go on."""
    problem: str = ""
    """Why there are none."""


async def newest_lines(reader: LogReader, experiment_id: str) -> LogPart:
    """Hold no session."""
    try:
        found = await reader.older(experiment_id, before=_END, count=_LINES, wanted=LogFilter())
    except StorageUnavailable as error:
        return LogPart(problem=error.message)
    return LogPart(lines=found.lines, next_before=found.next_before)
