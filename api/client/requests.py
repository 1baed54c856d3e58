"""One request as a value: what is sent, how its answer is read, and whether it may be sent again. No network here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)
DOWNLOAD_TIMEOUT_S = 90.0
"""The service ends a piece of a file earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Generic[Answer]):
    """What a transport carries out."""

    read: Callable[[bytes], Answer]
    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    """None is left out, a list is repeated."""
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    """For one try, where it takes longer than the client's own limit."""
    may_repeat: bool = False
    """Whether a second time does no more than the first: then it is sent again where no answer came."""
    target: Path | None = None
    """Where the answer's body is written, instead of being read: a file that appears when it is whole."""


def get(
    model: type[Model], path: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
) -> Request[Model]:
    """Reads something."""
    return Request(
        read=model.model_validate_json,
        method="GET",
        path=path,
        params=params or {},
        timeout_s=timeout_s,
        may_repeat=True,
    )


def get_text(path: str, *, timeout_s: float | None = None) -> Request[str]:
    """Reads text."""
    return Request(read=bytes.decode, method="GET", path=path, timeout_s=timeout_s, may_repeat=True)


def download(path: str, target: Path, params: Mapping[str, Any] | None = None) -> Request[None]:
    """Writes the answer to a file."""
    return Request(
        read=_nothing,
        method="GET",
        path=path,
        params=params or {},
        timeout_s=DOWNLOAD_TIMEOUT_S,
        may_repeat=True,
        target=target,
    )


def send(
    model: type[Model],
    method: str,
    path: str,
    body: Any = None,
    *,
    params: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    timeout_s: float | None = None,
    may_repeat: bool = False,
) -> Request[Model]:
    """Changes something. May be repeated under an idempotency key, as a PUT, or where `may_repeat` says so."""
    return Request(
        read=model.model_validate_json,
        method=method,
        path=path,
        params=params or {},
        json=body,
        headers={} if idempotency_key is None else {"Idempotency-Key": idempotency_key},
        timeout_s=timeout_s,
        may_repeat=may_repeat or method == "PUT" or idempotency_key is not None,
    )


def path(*parts: str | int) -> str:
    """A path whose parts may hold anything."""
    return "".join(f"/{quote(str(part), safe='@+')}" for part in parts)


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def body_of(document: BaseModel | Mapping[str, Any]) -> Any:
    """As JSON. What was not said is left out: of a change, leaving out and taking away are different things."""
    return document.model_dump(mode="json", exclude_unset=True) if isinstance(document, BaseModel) else dict(document)


def _nothing(_: bytes) -> None:
    return None
