"""Everything that the service refuses or fails to do, as a tree. Each class has a stable `code`; none knows HTTP."""

from typing import Any, ClassVar


class SedrayError(Exception):
    """The root. The message says what is wrong, why, and what to do."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "The request failed"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        """Facts for machines: they appear beside the message in the problem document."""


class NotFound(SedrayError):
    """Nothing of that kind has this id, or it belongs to somebody else's project."""

    code = "not_found"
    title = "Not found"


class InvalidSpec(SedrayError):
    """The specification is malformed; `errors` lists field, problem and hint."""

    code = "invalid_spec"
    title = "The specification is not valid"


class CannotRun(SedrayError):
    """The specification is well formed, but what it names is missing or cannot work; `errors` lists each finding."""

    code = "cannot_run"
    title = "The experiment cannot run"


class IdempotencyConflict(SedrayError):
    """The idempotency key was used before with another body."""

    code = "idempotency_conflict"
    title = "The idempotency key was used with another body"


class QuotaExceeded(SedrayError):
    """A project or a user has as much as it may; `limit` names what of, with `allowed` and `present`."""

    code = "quota_exceeded"
    title = "The quota is used up"


class NotAllowedNow(SedrayError):
    """The experiment's status does not allow this."""

    code = "not_allowed_now"
    title = "The status does not allow this"


class StaleAttempt(SedrayError):
    """The attempt is over; its driver must stop and write nothing more."""

    code = "stale_attempt"
    title = "The attempt is over"


class ReportGap(SedrayError):
    """A report came before one that is still missing; `expected_seq` says which to send."""

    code = "report_gap"
    title = "An earlier report is missing"


class InvalidReport(SedrayError):
    """A driver's message contradicts its experiment."""

    code = "invalid_report"
    title = "The driver's message does not fit its experiment"


class InvalidRequest(SedrayError):
    """A request other than a specification is malformed; `errors` lists field, problem and hint."""

    code = "invalid_request"
    title = "The request is not valid"


class BodyTooLarge(SedrayError):
    """The body is longer than this route takes."""

    code = "body_too_large"
    title = "The body is too large"


class CrossSiteRequest(SedrayError):
    """A page of another site tried to change something with this browser's cookie."""

    code = "cross_site_request"
    title = "The request came from another site"


class Unauthenticated(SedrayError):
    """No token, or one that is unknown, revoked or expired."""

    code = "unauthenticated"
    title = "Authentication failed"


class Forbidden(SedrayError):
    """The role, or the token's scope, does not reach; `required_role` or `required_scope` says what would."""

    code = "forbidden"
    title = "This is not allowed"


class TooManyFailures(SedrayError):
    """Too many log-ins from this address have failed."""

    code = "too_many_failures"
    title = "Too many failed log-ins"


class LoginFailed(SedrayError):
    """The issuer of log-ins did not vouch for anybody."""

    code = "login_failed"
    title = "The log-in failed"


class PreviewBusy(SedrayError):
    """As many previews run as may run at a time."""

    code = "preview_busy"
    title = "Other previews are running"


class PreviewUnavailable(SedrayError):
    """The libraries that render and tokenize are not installed beside the API."""

    code = "preview_unavailable"
    title = "This service cannot preview data"


class PreviewTooSlow(SedrayError):
    """The preview was given up; the same request would be again."""

    code = "preview_too_slow"
    title = "The preview took too long"


class PreviewFailed(SedrayError):
    """The previewing process broke down."""

    code = "preview_failed"
    title = "The preview failed"


class StorageUnavailable(SedrayError):
    """The storage of the experiments' outputs did not answer, or the service may not read it."""

    code = "storage_unavailable"
    title = "The outputs cannot be read"


class QueryTooSlow(SedrayError):
    """The question needs more reading than one may ask for; the same question would again."""

    code = "query_too_slow"
    title = "The question takes too long"


class LeaseLost(SedrayError):
    """Another scheduler has taken over; what this one was about to write is discarded."""

    code = "lease_lost"
    title = "The scheduler's lease is lost"


class RayUnreachable(SedrayError):
    """Ray's dashboard did not answer in time: nothing is known, nothing may be concluded."""

    code = "ray_unreachable"
    title = "Ray does not answer"
