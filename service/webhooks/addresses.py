"""Where a webhook may go: never into our own network (server-side request forgery), unless its host is allowed by name.

A name is resolved once for each try, every address that it has is checked, and the connection goes to a checked
address: a name that answers differently the next moment gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses; raises OSError if there are none."""
_RESOLVE_TIMEOUT_S = 5.0
_RESOLVERS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="webhook-names")
"""Of their own: a name server that does not answer holds up nobody else's threads."""
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 behind a NAT64 gateway: the last 32 bits are the real address."""


class AddressRefused(Exception):
    """The address is not one that a webhook may go to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A URL taken apart. The host is in lower case and ASCII, without brackets."""

    scheme: str
    host: str
    port: int
    is_allowed_by_name: bool


def parse_destination(url: str, allowed_hosts: Collection[str]) -> Destination:
    """The destination of a webhook's URL; raises AddressRefused with the reason.

    `allowed_hosts` holds `host` or `host:port`; for them, and only for them, private addresses and plain HTTP are fine.
    """
    try:
        parts = urlsplit(url)
        host, port = _ascii(parts.hostname or ""), parts.port
    except ValueError as error:
        raise AddressRefused(f"not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise AddressRefused("a webhook's URL starts with https:// and a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise AddressRefused("a webhook's URL holds no user, password or fragment; the signature tells who sends")
    port = port or (443 if parts.scheme == "https" else 80)
    allowed = host in allowed_hosts or f"{host}:{port}" in allowed_hosts
    if not allowed and parts.scheme != "https":
        raise AddressRefused(
            "a webhook goes over https://, unless an admin allows its host (SEDRAY_WEBHOOK_ALLOWED_HOSTS)"
        )
    if not allowed and (literal := _literal(host)) is not None:
        _refuse_internal(literal)
    return Destination(scheme=parts.scheme, host=host, port=port, is_allowed_by_name=allowed)


async def checked_address(destination: Destination, resolve: Resolve) -> str:
    """An address of the destination that may be connected to; raises AddressRefused, or OSError if there is none."""
    addresses = await resolve(destination.host, destination.port)
    if not addresses:
        raise OSError(f"{destination.host} has no address")
    if not destination.is_allowed_by_name:
        for address in addresses:
            _refuse_internal(ipaddress.ip_address(address))
    return addresses[0]


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The system's answer, IPv4 first, within 5 s."""
    loop = asyncio.get_running_loop()
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
        found = await loop.run_in_executor(_RESOLVERS, look_up)
    addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
    return list(dict.fromkeys(addresses))


def _ascii(hostname: str) -> str:
    host = hostname.rstrip(".")
    return host if not host or _literal(host) else host.encode("idna").decode()


def _literal(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _refuse_internal(address: IpAddress) -> None:
    real = _real(address)
    is_site_local = isinstance(real, ipaddress.IPv6Address) and real.is_site_local
    is_public = real.is_global and not (real.is_multicast or real.is_reserved or real.is_unspecified or is_site_local)
    if not is_public:
        raise AddressRefused(
            f"{address} is not a public address; an admin may allow the host (SEDRAY_WEBHOOK_ALLOWED_HOSTS)"
        )


def _real(address: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address
