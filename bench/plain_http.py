"""A client that costs next to nothing: keep-alive connections, bodies made beforehand, answers hardly looked at.

Standard library only. What is measured with it is the server's own work.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, ready to be sent."""

    path: str
    body: bytes
    headers: dict[str, str]

    def as_bytes(self, host: str, method: str = "POST") -> bytes:
        """As it goes over the wire."""
        lines = [f"{method} {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


class Connection:
    """One connection, one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    @classmethod
    async def open(cls, url: str) -> Self:
        """To a plain HTTP server."""
        place = urlsplit(url)
        assert place.hostname is not None and place.port is not None, "an address with a port"
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        return cls(reader, writer, place.netloc)

    async def call(self, call: Call, method: str = "POST") -> tuple[int, bytes]:
        """Status and body."""
        self._writer.write(call.as_bytes(self._host, method))
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        status = int(head[0].split(" ")[1])
        if "chunked" in headers.get("transfer-encoding", ""):
            return status, await self._chunked()
        return status, await self._reader.readexactly(int(headers.get("content-length", 0)))

    async def close(self) -> None:
        """Ends it."""
        self._writer.close()
        await self._writer.wait_closed()

    async def _chunked(self) -> bytes:
        parts = []
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readline()
        return b"".join(parts)


async def run_clients(urls: Sequence[str], calls: Sequence[Sequence[Call]]) -> float:
    """Each client sends its calls one after the other, all clients at once; returns the seconds that it took."""
    connections = [await Connection.open(urls[number % len(urls)]) for number in range(len(calls))]
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(_send(one, own) for one, own in zip(connections, calls, strict=True)))
    took = loop.time() - began
    for connection in connections:
        await connection.close()
    return took


async def _send(connection: Connection, calls: Sequence[Call]) -> None:
    for call in calls:
        status, answer = await connection.call(call)
        if status >= 300:
            raise RuntimeError(f"{call.path} answered {status}: {answer[:300]!r}")
