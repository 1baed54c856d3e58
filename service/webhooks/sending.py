"""One try to deliver one message: bounded in time and size, over no proxy, after no redirect, to a checked address."""

import asyncio
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import httpx

from service.webhooks.addresses import (
    AddressRefused,
    Destination,
    Resolve,
    checked_address,
    parse_destination,
    resolve_by_system,
)

TIMEOUT_S = 10.0
"""Of a whole try: name, connection, answer."""
MAX_ANSWER_BYTES = 4096
"""So much of an answer is read and kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one try."""

    status: int | None = None
    """HTTP status, if there was an answer."""
    answer: str = ""
    error: str = ""
    """Why there was no answer, or why it does not count."""
    is_final: bool = False
    """Another try would change nothing."""
    retry_after_s: float | None = None
    """What the receiver asks for."""

    @property
    def is_delivered(self) -> bool:
        """Any 2xx."""
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Sends messages; one for the life of a process. Use it as a context manager."""

    def __init__(
        self,
        allowed_hosts: Collection[str],
        *,
        resolve: Resolve = resolve_by_system,
        verify: ssl.SSLContext | bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._allowed_hosts = frozenset(allowed_hosts)
        self._resolve = resolve
        self._timeout_s = timeout_s
        # Connections are not kept: the next try may be to another address of the same name.
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(
            verify=verify, follow_redirects=False, trust_env=False, limits=limits, timeout=timeout_s
        )

    async def close(self) -> None:
        """Closes what is open."""
        await self._http.aclose()

    async def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """One POST; never raises for what the receiver or the network does."""
        try:
            async with asyncio.timeout(self._timeout_s):
                destination = parse_destination(url, self._allowed_hosts)
                address = await checked_address(destination, self._resolve)
                return await self._post(url, destination, address, body, headers)
        except AddressRefused as error:
            return Outcome(error=f"not sent: {error}", is_final=True)
        except TimeoutError:
            return Outcome(error=f"no answer within {self._timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            return Outcome(error=f"{type(error).__name__}: {error}"[:500])

    async def _post(
        self, url: str, destination: Destination, address: str, body: bytes, headers: Mapping[str, str]
    ) -> Outcome:
        target = httpx.URL(url).copy_with(host=address)
        named = {**headers, "Host": _host_header(destination), "Content-Type": "application/json"}
        request = self._http.build_request(
            "POST",
            target,
            content=body,
            headers={**named, "User-Agent": "sedray-webhooks/1", "Accept-Encoding": "identity"},
            # The certificate must be that of the name, although the connection goes to an address.
            extensions={"sni_hostname": destination.host},
        )
        response = await self._http.send(request, stream=True)
        try:
            return _outcome(response, await _beginning(response))
        finally:
            await response.aclose()


def _outcome(response: httpx.Response, answer: str) -> Outcome:
    status = response.status_code
    if 200 <= status < 300:
        return Outcome(status=status, answer=answer)
    if 300 <= status < 400:
        return Outcome(status=status, answer=answer, error="redirects are not followed; give the final address")
    if status == httpx.codes.GONE:
        return Outcome(status=status, answer=answer, error="the receiver says that it is gone", is_final=True)
    return Outcome(
        status=status, answer=answer, error=f"the receiver answered {status}", retry_after_s=_retry_after(response)
    )


async def _beginning(response: httpx.Response) -> str:
    content = b""
    async for chunk in response.aiter_raw(MAX_ANSWER_BYTES):
        content += chunk
        if len(content) >= MAX_ANSWER_BYTES:
            break
    return content[:MAX_ANSWER_BYTES].decode(errors="replace")


def _retry_after(response: httpx.Response) -> float | None:
    """The header's seconds, if it has any; dates are rare and not read."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() and len(text) < 6 else None


def _host_header(destination: Destination) -> str:
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    is_usual = destination.port == (443 if destination.scheme == "https" else 80)
    return host if is_usual else f"{host}:{destination.port}"
