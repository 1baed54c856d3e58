"""What the client raises. Every message says what happened, why, and where it is known what to do."""

from collections.abc import Mapping
from typing import Any


class SedrayError(Exception):
    """The root of what the client raises."""


class NoConnection(SedrayError):
    """Nothing says where the service is, or the token cannot be read."""


class ServiceUnreachable(SedrayError):
    """No answer, after several tries where the request may be repeated."""


class UnknownAnswer(SedrayError):
    """The service answered something that this client cannot read, as one of another version would."""


class MissingLibrary(SedrayError, ImportError):
    """Frames were asked for, and the library that makes them is not installed."""


class ProblemReply(SedrayError):
    """The service refused; the fields are those of its problem document (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code", "unknown"))
        """Stable, for programs."""
        self.title = str(problem.get("title", ""))
        self.detail = str(problem.get("detail") or self.title or f"HTTP {status}")
        self.errors: list[dict[str, Any]] = list(problem.get("errors") or [])
        """Each finding with `field`, `problem` and, where one is known, `hint`."""
        super().__init__("\n".join([self.detail, *(f"  {_in_words(finding)}" for finding in self.errors)]))


class Unauthorized(ProblemReply):
    """401: no token, or none that is valid."""


class Forbidden(ProblemReply):
    """403: the token is valid, and not enough."""


class NotFound(ProblemReply):
    """404: it does not exist, or is in a project that the token does not open."""


class Conflict(ProblemReply):
    """409: not in this state, or not a second time."""


class Invalid(ProblemReply):
    """422: `errors` holds every finding."""


_KIND_OF = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 422: Invalid}


def problem_reply(status: int, problem: Any, text: str) -> ProblemReply:
    """The exception for a refusal; `text` is said where the body is no problem document."""
    if not isinstance(problem, Mapping):
        problem = {"title": f"HTTP {status}", "detail": text[:500]}
    return _KIND_OF.get(status, ProblemReply)(status, problem)


def _in_words(finding: Mapping[str, Any]) -> str:
    hint = f" ({finding['hint']})" if finding.get("hint") else ""
    return f"{finding.get('field')}: {finding.get('problem')}{hint}"
