"""Errors as RFC 9457 problem documents. The only place that knows which error is which HTTP status."""

import http
import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic_core import ErrorDetails
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from api.request_ids import request_id_of
from service import errors
from service.contract.spec import ExperimentSpec
from service.contract.strict_model import describe_details
from service.contract.studies import StudySpec

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
STATUS_OF: dict[type[errors.SedrayError], int] = {
    errors.Unauthenticated: 401,
    errors.CrossSiteRequest: 403,
    errors.QuotaExceeded: 403,
    errors.Forbidden: 403,
    errors.LoginFailed: 403,
    errors.NotFound: 404,
    errors.IdempotencyConflict: 409,
    errors.NotAllowedNow: 409,
    errors.StaleAttempt: 409,
    errors.BodyTooLarge: 413,
    errors.InvalidSpec: 422,
    errors.CannotRun: 422,
    errors.InvalidRequest: 422,
    errors.InvalidReport: 422,
    # Not 409, which tells a driver that its attempt is over.
    errors.ReportGap: 422,
    errors.PreviewTooSlow: 422,
    errors.QueryTooSlow: 422,
    errors.TooManyFailures: 429,
    errors.PreviewUnavailable: 501,
    errors.RayUnreachable: 502,
    errors.PreviewBusy: 503,
    errors.StorageUnavailable: 503,
}
"""What is not listed is our own failure: 500."""

Headers = Mapping[str, str]


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these statuses carry a problem document."""
    return {
        status: {"description": http.HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
        for status in statuses
    }


_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def install_problem_handlers(app: FastAPI) -> None:
    """Makes every error of the app a problem document, and none of them a traceback."""
    app.add_exception_handler(errors.SedrayError, _on_sedray_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(OperationalError, _on_database_error)
    app.add_exception_handler(PoolTimeout, _on_database_error)
    app.add_exception_handler(DataError, _on_refused_value)
    app.add_exception_handler(Exception, _on_unexpected)


def status_of(error: errors.SedrayError) -> int:
    """The HTTP status of one of our errors."""
    return next((status for kind, status in STATUS_OF.items() if isinstance(error, kind)), 500)


def problem_of(error: errors.SedrayError) -> JSONResponse:
    """The problem document of one of our errors."""
    status = status_of(error)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "60"}, 503: {"Retry-After": "5"}}.get(status)
    return _respond(status, error.code, error.title, error.message, headers=headers, details=error.details)


def _respond(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    headers: Headers | None = None,
    details: Mapping[str, Any] | None = None,
) -> JSONResponse:
    body = {"type": f"urn:sedray:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return JSONResponse({**(details or {}), **body}, status, headers=headers, media_type=MEDIA_TYPE)


async def _on_sedray_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.SedrayError)
    return problem_of(error)


async def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    model = _body_model(request)
    in_body = [details for details in error.errors() if details["loc"][0] == "body"]
    outside = [details for details in error.errors() if details["loc"][0] != "body"]
    elsewhere = [_outside_body(details, _query_names(request)) for details in outside]
    found = [*_in_body(in_body, model), *elsewhere]
    detail = "; ".join(_in_words(entry) for entry in found[:3])
    if len(found) > 3:
        detail += f"; and {len(found) - 3} more, see errors"
    about_spec = bool(in_body) and model in (ExperimentSpec, StudySpec)
    kind = errors.InvalidSpec if about_spec else errors.InvalidRequest
    return problem_of(kind(detail, errors=found))


def _in_body(found: Sequence[dict[str, Any]], model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if any(details["type"] == "json_invalid" for details in found):
        reason, position = found[0]["ctx"]["error"], found[0]["loc"][-1]
        return [{"field": "(body)", "problem": f"not JSON: {reason} at character {position}"}]
    # What a model says of its whole body stands there too.
    if model is None or any(len(details["loc"]) == 1 and details["type"] != "value_error" for details in found):
        hint = "send one JSON object with the header 'Content-Type: application/json'"
        return [{"field": "(body)", "problem": details["msg"], "hint": hint} for details in found]
    inside = [cast(ErrorDetails, {**details, "loc": details["loc"][1:]}) for details in found]
    return describe_details(inside, model)


def _outside_body(details: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    place, *path = (str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return {"field": ".".join(path), "problem": f"unknown parameter {path[-1]!r} ({place})", "hint": hint}
    # Messages of our own validators come with pydantic's prefix.
    problem = details["msg"].removeprefix("Value error, ")
    # A parameter that may be given several times is named without saying which of its values is meant.
    named = [part for part in path if not part.isdigit()]
    return {"field": ".".join(named) or place, "problem": f"{problem} ({place})"}


def _query_names(request: Request) -> list[str]:
    """Of the parameters that the route takes as one model, which alone refuses others."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    fields = dependant.query_params if dependant is not None else []
    models = [field.field_info.annotation for field in fields]
    return sorted(
        name
        for model in models
        if isinstance(model, type) and issubclass(model, BaseModel)
        for name in model.model_fields
    )


def _in_words(entry: Mapping[str, Any]) -> str:
    hint = f" ({entry['hint']})" if entry.get("hint") else ""
    return f"{entry['field']}: {entry['problem']}{hint}"


def _body_model(request: Request) -> type[BaseModel] | None:
    field = getattr(request.scope.get("route"), "body_field", None)
    annotation = field.field_info.annotation if field is not None else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


async def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == STATUS_OF[errors.BodyTooLarge]:
        return problem_of(errors.BodyTooLarge(error.detail))
    if error.status_code == http.HTTPStatus.BAD_REQUEST:
        # FastAPI's answer to what its parser breaks on; to other text that is no JSON it has a better one.
        problem = "an error in parsing it: bytes that are no UTF-8 text, or nested too deeply"
        return problem_of(errors.InvalidRequest(f"(body): {problem}", errors=[{"field": "(body)", "problem": problem}]))
    status = http.HTTPStatus(error.status_code)
    detail = error.detail if error.detail != status.phrase else status.description or status.phrase
    return _respond(status, status.name.lower(), status.phrase, detail, headers=error.headers)


async def _on_database_error(request: Request, error: Exception) -> JSONResponse:
    logger.error("database did not answer", extra={"path": request.url.path, "error": str(error)})
    detail = "the database does not answer; nothing was changed, try again in a moment"
    headers = {"Retry-After": "2"}
    return _respond(503, "database_unavailable", "The database is not available", detail, headers=headers)


async def _on_refused_value(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DataError)
    detail = "a value holds what cannot be stored, such as a NUL character or a number out of range"
    return problem_of(errors.InvalidRequest(detail))


async def _on_unexpected(request: Request, _: Exception) -> JSONResponse:
    # The server's error log gets the traceback; the caller gets none of it, but the id to ask for.
    request_id = request_id_of(request.scope) or "unknown"
    detail = f"{request.method} {request.url.path} failed by a fault of the service; its log says more"
    headers = {"X-Request-Id": request_id}
    return _respond(500, "internal_error", "The service failed", detail, headers=headers)
