"""Who may do what: every operation of the service by name, and what each caller gets. A new route needs its line here.

`OUTCOMES` says for each rule which callers are answered otherwise than with success; `OPERATIONS` gives each operation
its rule, the target that it needs and a request that succeeds.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.factories import make_finish, make_report, make_stage_result, spec_body, study_body

PROJECT = "team"
SPEC = spec_body(project=PROJECT)
STUDY = study_body(project=PROJECT)

UNKNOWN_CALLERS = ("none", "garbage", "expired", "revoked", "disabled", "attempt")
"""No token, or none that people's routes accept."""
BLIND = ("outsider", "stranger", "bound_elsewhere")
"""Valid tokens that do not open the project."""
CALLERS = (
    *UNKNOWN_CALLERS,
    *BLIND,
    "viewer",
    "member",
    "owner",
    "maintainer",
    "maintainer_read",
    "maintainer_write",
    "bound_here",
    "service",
    "admin",
    "admin_read",
    "admin_bound",
)
"""`owner` is a member whose experiments and tokens are the targets; `bound_here` a maintainer whose token opens this
project only, `bound_elsewhere` the same maintainer whose token opens another; `service` a service account, a member,
with a token of scope `write`; `admin_bound` an admin whose token opens this project only."""
_ALL_REFUSED = dict.fromkeys(UNKNOWN_CALLERS, 401)


def _but(blind: int | None, **others: int) -> dict[str, int]:
    """Unknown callers get 401, those who do not see the project `blind`, the others named what is said."""
    return {**_ALL_REFUSED, **(dict.fromkeys(BLIND, blind) if blind else {}), **others}


_BELOW_MAINTAINER = dict.fromkeys(("viewer", "member", "owner", "service"), 403)
_BELOW_ADMIN_SCOPE = dict.fromkeys(("maintainer_read", "maintainer_write", "service", "admin_read"), 403)
_NO_ADMIN = {name: 403 for name in CALLERS if name not in (*UNKNOWN_CALLERS, "admin", "admin_read")}
_OTHERS_TOKEN = {name: 404 for name in CALLERS if name not in (*UNKNOWN_CALLERS, "owner", "admin", "admin_read")}
_ISSUE = {**_ALL_REFUSED, **_BELOW_ADMIN_SCOPE, "bound_here": 403, "bound_elsewhere": 403, "admin_bound": 403}
_OWNERS_TOKEN = {**_ALL_REFUSED, **_OTHERS_TOKEN, "admin_read": 403}

OUTCOMES: dict[str, dict[str, int]] = {
    "public": {},
    "anyone": _ALL_REFUSED,
    "read": _but(404),
    # What is wrong with a text is told to everybody, also that one may not see the project that it names.
    "check": {**_ALL_REFUSED, "viewer": 403, "maintainer_read": 403, "admin_read": 403},
    "submit": _but(422, viewer=403, maintainer_read=403, admin_read=403),
    # The target is the owner's, so another member is refused; the service account is one.
    "control": _but(404, viewer=403, member=403, service=403, maintainer_read=403, admin_read=403),
    "oversee": _but(404, **_BELOW_MAINTAINER),
    "manage": _but(404, **(_BELOW_MAINTAINER | _BELOW_ADMIN_SCOPE)),
    "admin_read": {**_ALL_REFUSED, **_NO_ADMIN},
    "admin": {**_ALL_REFUSED, **_NO_ADMIN, "admin_read": 403},
    # A new token for oneself that opens all of one's projects.
    "issue": _ISSUE,
    # The owner's token; admin_read finds it, and is for less.
    "owners_token": _OWNERS_TOKEN,
    "attempt": {name: 401 for name in CALLERS if name != "attempt"},
    # A person without a valid token is sent to the log-in.
    "page": dict.fromkeys(UNKNOWN_CALLERS, 303),
    "issue_page": _ISSUE | dict.fromkeys(UNKNOWN_CALLERS, 303),
    "owners_token_page": _OWNERS_TOKEN | dict.fromkeys(UNKNOWN_CALLERS, 303),
    "read_page": dict.fromkeys(UNKNOWN_CALLERS, 303) | dict.fromkeys(BLIND, 404),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation: its rule, and a request that succeeds for whoever may make it."""

    rule: str
    success: int = 200
    target: str | None = None
    """What is made anew before each request, because the request uses it up."""
    json: Any = None
    form: dict[str, str] | None = None
    query: dict[str, Any] = field(default_factory=dict)
    audited: bool = False
    """Whether success leaves an entry in the audit log."""


def _read(rule: str = "read", **query: Any) -> Operation:
    return Operation(rule=rule, query=query)


def _change(rule: str, *, target: str | None = None, success: int = 200, json: Any = None) -> Operation:
    return Operation(rule=rule, target=target, success=success, json=json, audited=True)


_EXPERIMENT = "/api/v1/experiments/{experiment_id}"
_PROJECT = "/api/v1/projects/{project}"
_WEBHOOK = _PROJECT + "/webhooks/{webhook_id}"
_ATTEMPT = "/api/v1/attempts/{attempt_id}"
_STUDY = "/api/v1/studies/{study_id}"
_IMPORT = {"system": "trl", "configs": [{"settings": {"model_name_or_path": "/models/a", "max_length": 64}}]}
_NEW_WEBHOOK = {"name": "{fresh}", "url": "https://hooks.example.org/in", "events": ["experiment.failed"]}
_WINDOW = {"starts_at": "2099-01-01T00:00:00Z", "ends_at": "2099-01-02T00:00:00Z"}

OPERATIONS: dict[str, Operation] = {
    "GET /livez": _read("public"),
    "GET /readyz": _read("public"),
    "GET /api/v1/schema/experiment": _read("public"),
    "POST /api/v1/experiments": _change("submit", success=201, json=SPEC),
    "POST /api/v1/experiments/validate": Operation(rule="check", json={"text": json.dumps(SPEC)}),
    "POST /api/v1/studies/validate": Operation(rule="check", json={"text": json.dumps(STUDY)}),
    "GET /api/v1/spec-templates": _read("anyone"),
    "GET /api/v1/experiments": _read("anyone"),
    "GET /api/v1/experiments/counts": _read("anyone"),
    # Each id is decided by itself, in the answer: tests/api/test_bulk.py.
    "POST /api/v1/experiments/bulk": Operation(rule="anyone", json={"action": "cancel", "ids": ["exp-none"]}),
    "GET /api/v1/queue": _read("anyone"),
    "GET /api/v1/queue/standings": _read("anyone"),
    "GET /queue": _read("page"),
    "GET /api/v1/cluster": _read("anyone"),
    "GET /cluster": _read("page"),
    "POST /api/v1/data/preview": Operation(rule="submit", json=SPEC),
    "POST /api/v1/import": Operation(rule="anyone", json=_IMPORT),
    f"GET {_EXPERIMENT}": _read(),
    f"POST {_EXPERIMENT}/cancel": _change("control", target="queued_experiment", success=202),
    f"POST {_EXPERIMENT}/retry": _change("control", target="cancelled_experiment", success=202),
    f"GET {_EXPERIMENT}/priority": _read(),
    f"POST {_EXPERIMENT}/priority": _change("control", target="queued_experiment", json={"priority": "high"}),
    f"POST {_EXPERIMENT}/hold": _change("control", target="queued_experiment", json={}),
    f"POST {_EXPERIMENT}/release": _change("control", target="held_experiment"),
    "GET /api/v1/queue/orders": _read("anyone"),
    "GET /api/v1/queue/quotas": _read("anyone"),
    "POST /api/v1/queue/pause": _change("admin", json={"reason": "{fresh}"}),
    "POST /api/v1/queue/resume": _change("admin", target="paused_queue"),
    "POST /api/v1/queue/maintenance": _change("admin", success=201, json=_WINDOW),
    "DELETE /api/v1/queue/maintenance/{window_id}": _change("admin", target="window"),
    f"POST {_PROJECT}/pause": _change("manage", json={"reason": "{fresh}"}),
    f"POST {_PROJECT}/resume": _change("manage", target="paused_project"),
    f"PUT {_PROJECT}/quota": _change("admin", json={"max_running": 9}),
    f"PUT {_PROJECT}/users/{{user_name}}/quota": _change("manage", json={"max_running": 9}),
    f"GET {_EXPERIMENT}/events": _read(),
    f"GET {_EXPERIMENT}/metrics": _read(),
    f"GET {_EXPERIMENT}/metrics/names": _read(),
    f"GET {_EXPERIMENT}/metrics/axes": _read(),
    f"GET {_EXPERIMENT}/logs": _read(),
    f"GET {_EXPERIMENT}/logs/sources": _read(),
    f"GET {_EXPERIMENT}/logs/download": _read(),
    f"GET {_EXPERIMENT}/attempts/{{attempt_number}}/certificate": _read(),
    f"GET {_EXPERIMENT}/rollouts": _read(),
    f"GET {_EXPERIMENT}/rollouts/search": _read(),
    f"GET {_EXPERIMENT}/rollouts/stored": _read(),
    f"GET {_EXPERIMENT}/rollouts/stored/{{step}}": _read(),
    f"GET {_EXPERIMENT}/models/{{stage}}": _read(),
    f"GET {_EXPERIMENT}/models/{{stage}}/file": _read(name="config.json"),
    f"GET {_EXPERIMENT}/token-views": _read(),
    f"GET {_EXPERIMENT}/token-views/{{stage}}/{{step}}/{{sample_index}}": _read(),
    f"GET {_EXPERIMENT}/stream": _read(),
    f"GET {_EXPERIMENT}/timeline": _read(),
    f"GET {_EXPERIMENT}/specification": _read(),
    f"GET {_EXPERIMENT}/lineage": _read(),
    f"GET {_EXPERIMENT}/spend": _read(),
    f"GET {_EXPERIMENT}/checkpoints": _read(),
    f"GET {_EXPERIMENT}/checkpoints/{{output_id}}/archive": _read(),
    f"GET {_EXPERIMENT}/checkpoints/{{output_id}}/file": _read(path="config.json"),
    "GET /api/v1/projects": _read("anyone"),
    "POST /api/v1/projects": _change("admin", success=201, json={"name": "{fresh}"}),
    f"GET {_PROJECT}": _read(),
    f"PATCH {_PROJECT}": _change("manage", json={"description": "{fresh}"}),
    f"GET {_PROJECT}/members": _read(),
    f"PUT {_PROJECT}/members/{{name}}": _change("manage", target="user", json={"role": "viewer"}),
    f"DELETE {_PROJECT}/members/{{name}}": _change("manage", target="fresh_member"),
    f"POST {_PROJECT}/service-accounts": _change("manage", success=201, json={"name": "{fresh}"}),
    f"DELETE {_PROJECT}/service-accounts/{{name}}": _change("manage", target="service_account"),
    f"GET {_PROJECT}/retention": _read(),
    f"PUT {_PROJECT}/retention": _change("manage", json={"logs": 30}),
    f"DELETE {_PROJECT}/retention": _change("manage"),
    "GET /api/v1/retention": _read("admin_read"),
    "GET /api/v1/diagnosis": _read("admin_read"),
    f"GET {_PROJECT}/audit": _read("oversee"),
    f"GET {_PROJECT}/webhooks": _read("oversee"),
    f"POST {_PROJECT}/webhooks": _change("manage", target="webhook", success=201, json=_NEW_WEBHOOK),
    f"GET {_WEBHOOK}": Operation(rule="oversee", target="webhook"),
    f"PATCH {_WEBHOOK}": _change("manage", target="webhook", json={"is_active": False}),
    f"DELETE {_WEBHOOK}": _change("manage", target="webhook"),
    f"POST {_WEBHOOK}/rotate-secret": _change("manage", target="webhook"),
    f"POST {_WEBHOOK}/test": _change("manage", target="webhook", success=202),
    f"GET {_WEBHOOK}/deliveries": Operation(rule="oversee", target="webhook"),
    f"POST {_WEBHOOK}/deliveries/{{delivery_id}}/redeliver": _change("manage", target="dead_delivery", success=202),
    "GET /api/v1/users": _read("admin_read"),
    "POST /api/v1/users": _change("admin", success=201, json={"name": "{fresh}"}),
    "PATCH /api/v1/users/{name}": _change("admin", target="user", json={"disabled": True}),
    "GET /api/v1/audit": _read("admin_read"),
    "GET /api/v1/me": _read("anyone"),
    "GET /api/v1/tokens": _read("anyone"),
    "POST /api/v1/tokens": _change("issue", success=201, json={"name": "ci"}),
    "DELETE /api/v1/tokens/{token_id}": _change("owners_token", target="token"),
    "POST /api/v1/tokens/{token_id}/rotate": _change("owners_token", target="token", success=201, json={}),
    f"POST {_ATTEMPT}/start": Operation(rule="attempt"),
    f"POST {_ATTEMPT}/reports": Operation(rule="attempt", json=make_report().model_dump(mode="json")),
    f"POST {_ATTEMPT}/stage-results": Operation(
        rule="attempt", success=204, json=make_stage_result().model_dump(mode="json")
    ),
    f"POST {_ATTEMPT}/finish": Operation(rule="attempt", success=204, json=make_finish().model_dump(mode="json")),
    "POST /api/v1/studies": _change("submit", success=201, json=STUDY),
    "GET /api/v1/studies": _read("anyone"),
    f"GET {_STUDY}": _read(),
    f"GET {_STUDY}/runs": _read(),
    f"POST {_STUDY}/amendments": _change(
        "control", target="study", success=201, json={"reason": "{fresh}", "max_running": 3}
    ),
    **{
        f"GET {_STUDY}/{name}": _read()
        for name in ("report", "report.md", "report.tex", "report.csv", "report.parquet")
    },
    **{f"GET {_STUDY}/{name}": _read() for name in ("counts.csv", "counts.parquet", "spec.yaml")},
    **{f"GET /api/v1/compare{form}": _read("read", study="{study_id}") for form in ("", ".csv", ".md")},
    f"POST {_STUDY}/pause": _change("control", target="study", json={}),
    f"POST {_STUDY}/resume": _change("control", target="paused_study"),
    f"POST {_STUDY}/cancel": _change("control", target="study", success=202, json={}),
    f"POST {_STUDY}/runs/{{experiment_id}}/exclude": _change("control", target="study", json={"reason": "{fresh}"}),
    f"POST {_STUDY}/runs/{{experiment_id}}/include": _change("control", target="excluded_run"),
    "GET /openapi.json": _read("public"),
    "GET /static/plotly.min.js": _read("public"),
    "GET /login": _read("public"),
    "POST /login": Operation(rule="public", success=401),
    "POST /logout": Operation(rule="public", success=303),
    # No issuer is set here; with one they are public too.
    "GET /login/oidc": Operation(rule="public", success=404),
    "GET /login/oidc/callback": Operation(rule="public", success=404),
    "GET /": _read("page"),
    "GET /account": _read("page"),
    "POST /account/tokens": Operation(rule="issue_page", form={"name": "a", "scope": "read", "days": "1"}),
    "POST /account/tokens/{token_id}/revoke": Operation(rule="owners_token_page", target="token", success=303),
    "GET /experiments/{experiment_id}": _read("read_page"),
    "GET /compare": _read("read_page", study="{study_id}"),
    "GET /new": _read("read_page", **{"from": "{experiment_id}"}),
    "GET /studies/new": _read("read_page", **{"from": "{study_id}"}),
    "GET /studies": _read("page"),
    "GET /studies/{study_id}": _read("read_page"),
}
