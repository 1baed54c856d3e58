"""Requests to Ray's dashboard: the cluster's token, a deadline for each, and one error for every kind of silence."""

import json
from pathlib import Path
from typing import Any, Self

import httpx

from service.errors import RayUnreachable
from service.telemetry import RAY_REQUESTS


class RayHttp:
    """One connection pool. Every method raises RayUnreachable when nothing can be known."""

    def __init__(
        self, url: str, token_file: Path, *, timeout_s: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """`token_file` is read for each request, so that a new token needs no restart; `timeout_s` bounds each call."""
        self._token_file = token_file
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
            transport=transport,
            # The token of the cluster is for the cluster: it goes through no proxy that the environment names.
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """The answer, whatever its status."""
        try:
            token = self._token_file.read_text().strip()
        except OSError as error:
            raise RayUnreachable(f"Ray's token file cannot be read ({error}); set SEDRAY_RAY_TOKEN_FILE") from error
        try:
            response = await self._http.request(method, path, headers={"Authorization": f"Bearer {token}"}, **arguments)
        except httpx.HTTPError as error:
            RAY_REQUESTS.labels("unreachable").inc()
            detail = str(error) or type(error).__name__
            raise RayUnreachable(f"no answer from Ray's dashboard at {self._http.base_url}: {detail}") from error
        RAY_REQUESTS.labels("answered").inc()
        if response.status_code in (401, 403):
            raise RayUnreachable(
                f"Ray's dashboard refuses the token in {self._token_file}; put the cluster's token there"
            )
        return response

    async def post_without_token(self, url: str) -> int | None:
        """What a stranger's POST is answered, by status; None where nobody answers."""
        try:
            return (await self._http.post(url, json={}, timeout=5.0)).status_code
        except httpx.HTTPError:
            return None

    async def get_json(self, path: str, **query: str) -> dict[str, Any]:
        """The object that a successful answer holds."""
        return as_json(expect_ok(await self.call("GET", path, params=query)))

    async def list_state(self, kind: str, **filters: str) -> list[dict[str, Any]]:
        """Entries of Ray's state API: `actors`, `nodes`, `placement_groups`; `filters` are equalities."""
        query: dict[str, Any] = {"detail": "1", "limit": "10000"}
        if filters:
            query |= {"filter_keys": [*filters], "filter_values": [*filters.values()]}
            query["filter_predicates"] = ["="] * len(filters)
        answer = as_json(expect_ok(await self.call("GET", f"/api/v0/{kind}", params=query)))
        try:
            entries = answer["data"]["result"]["result"]
        except (KeyError, TypeError) as error:
            raise not_understood(f"the list of {kind}") from error
        return [entry for entry in entries if isinstance(entry, dict)]


def expect_ok(response: httpx.Response) -> httpx.Response:
    """An error of Ray's own says as little about the job as silence does."""
    if response.status_code != 200:
        path = response.request.url.path
        raise RayUnreachable(f"Ray's dashboard answered {path} with HTTP {response.status_code}")
    return response


def as_json(response: httpx.Response) -> dict[str, Any]:
    """The answer's object."""
    try:
        body = response.json()
    except json.JSONDecodeError as error:
        raise not_understood(response.request.url.path) from error
    if not isinstance(body, dict):
        raise not_understood(response.request.url.path)
    return body


def not_understood(what: str) -> RayUnreachable:
    """Another Ray than the one that this was written for."""
    return RayUnreachable(f"Ray's answer about {what} is not understood; the service needs Ray 2.60")
