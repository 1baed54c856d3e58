"""From an HTTP answer to what a call returns, or to its exception."""

from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from api.client.errors import UnknownAnswer, problem_reply
from api.client.requests import Request

Answer = TypeVar("Answer")


def answer_of(request: Request[Answer], response: httpx.Response) -> Answer:
    """What the call returns. Raises ProblemReply, UnknownAnswer."""
    refuse_errors(response)
    try:
        return request.read(response.content)
    except (ValidationError, UnicodeDecodeError) as error:
        raise UnknownAnswer(
            f"{response.request.url} answered what this client cannot read; is the service of another version? {error}"
        ) from error


def refuse_errors(response: httpx.Response) -> None:
    """Raises the ProblemReply of an answer that is one; its body is read already."""
    if response.is_error:
        raise problem_reply(response.status_code, _document(response), response.text)


def part_of(target: Path) -> Path:
    """Where a download is written until it is whole."""
    return target.with_name(f".{target.name}.part")


def sent(request: Request[Any]) -> dict[str, Any]:
    """The request as httpx takes it, but for address and time limit."""
    return {
        "json": request.json,
        "params": {name: value for name, value in request.params.items() if value is not None},
        "headers": dict(request.headers),
    }


def _document(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
