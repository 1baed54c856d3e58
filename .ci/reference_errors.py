"""The page of what can go wrong and what to do: problems of requests, ends of runs, reasons to wait, exit codes."""

import ast
import inspect
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from types import ModuleType

from reference_cells import cell, code

from api.cli.calling import ExitCode
from api.problems import STATUS_OF
from service.contract import status, waiting
from service.contract.advice import what_to_do
from service.contract.failures import POLICIES, class_of
from service.contract.status import EndReason
from service.contract.waiting import WaitCode

REMEDIES = {
    "unauthenticated": "Send a token that is valid: `sedray token create`, or log in at `/login`.",
    "cross_site_request": "Open the page itself and do it there.",
    "quota_exceeded": "Wait for what is queued, delete outputs (`sedray admin retention`), or ask for a larger quota.",
    "forbidden": "Ask for the role, or take a token of the scope, that `required_role` or `required_scope` names.",
    "login_failed": "Try again; else let an admin compare the issuer's settings with [access.md](../access.md).",
    "not_found": "Look at the id, and whether you are a member of its project (`sedray whoami`).",
    "idempotency_conflict": "Take a new key for another body.",
    "not_allowed_now": "Look at the status (`sedray show ID`): the order fits another one.",
    "stale_attempt": "For drivers alone: the attempt is over, another may have followed.",
    "body_too_large": "Send less at a time.",
    "invalid_spec": "Mend each field in `errors`; hints name the nearest known key.",
    "cannot_run": "Mend each finding in `errors`: files, gold answers, batches, resources, memory.",
    "invalid_request": "Mend each field in `errors`; [REST](rest.md) lists the parameters.",
    "invalid_report": "For drivers alone: workers and service are of different versions; install the same.",
    "report_gap": "For drivers alone: send the report `expected_seq` first.",
    "preview_too_slow": "Preview fewer records (`--records`), or raise SEDRAY_PREVIEW_TIMEOUT_S.",
    "query_too_slow": "Narrow it: fewer steps, or no search of texts.",
    "too_many_failures": "Wait a minute.",
    "preview_unavailable": "Install the `preview` extra beside the API, or set SEDRAY_PREVIEW_PYTHON.",
    "preview_busy": "Try again in a few seconds; clients of sedray do.",
    "ray_unreachable": "Try again; `sedray doctor` says what Ray answers.",
    "storage_unavailable": "Try again; `sedray doctor` says what the storage answers.",
}
"""What to do about each problem; `tests/docs` asks for one for each code."""

_INTRODUCTION = """# Problems, ends and remedies

Messages say what is wrong, why and what to do; this page is for looking up a code.

## Problems

Refused requests. `sedray` prints the message and ends with exit code 3; the Python client raises `ProblemReply`.

| code | status | what it says | what to do |
|---|---|---|---|"""


def errors_reference() -> str:
    """All tables of the page."""
    lines = [_INTRODUCTION]
    lines += [
        f"| {code(error.code)} | {number} | {cell(error.__doc__)} | {REMEDIES[error.code]} |"
        for error, number in STATUS_OF.items()
    ]
    lines += ["| `database_unavailable` | 503 | The database does not answer. | Nothing was changed; try again. |"]
    lines += ["| `internal_error` | 500 | A fault of the service. | Its log says more, by the `X-Request-Id`. |", ""]
    return "\n".join([*lines, *_ends(), *_waits(), *_exit_codes()]).rstrip() + "\n"


def _ends() -> Iterator[str]:
    yield from ("## Ends of attempts and experiments", "")
    yield "`sedray certificate ID` says which it was, how that is known, and what to do in this very case."
    yield from ("", "| reason | status | kind | another attempt | meaning | what to do |", "|---|---|---|---|---|---|")
    meanings = _texts_under_members(status, EndReason)
    for reason in EndReason:
        failure = class_of(reason)
        again = "yes" if failure and POLICIES[failure].retried else "no"
        advice = what_to_do(reason, failure, exit_code=None, out_of_memory=[], has_stacks=False)
        yield (
            f"| {code(reason.value)} | {reason.to_status().value} | {code(failure.value) if failure else ''} | {again} "
            f"| {cell(meanings.get(reason.name))} | {cell(' '.join(advice))} |"
        )
    yield ""


def _waits() -> Iterator[str]:
    yield from ("## Reasons to wait", "", "`sedray why ID` names one, and what would end it.", "")
    yield from ("| code | meaning |", "|---|---|")
    meanings = _texts_under_members(waiting, WaitCode)
    yield from (f"| {code(one.value)} | {cell(meanings[one.name])} |" for one in WaitCode)
    yield ""


def _exit_codes() -> Iterator[str]:
    yield from ("## Exit codes of `sedray`", "", "| code | |", "|---|---|")
    yield from (f"| {one.value} | {one.name.lower().replace('_', ' ')} |" for one in ExitCode)


def _texts_under_members(module: ModuleType, kind: type[Enum]) -> dict[str, str]:
    """What stands under each member of an enumeration in the source."""
    tree = ast.parse(inspect.getsource(module))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    found: dict[str, str] = {}
    for member, below in pairwise(body):
        match member, below:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
    return found
