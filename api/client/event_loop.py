"""The same as `blocking`, over an `httpx.AsyncClient`; both are kept line for line alike."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import httpx

from api.client.answers import answer_of, part_of, refuse_errors, sent
from api.client.calls import Conversation, Emit, Follow, Pause, Walk
from api.client.live import RETRY_STATUSES, SILENCE_S, LiveStream, MessageParser, StreamMessage
from api.client.requests import Request, path
from api.client.retrying import RetryPolicy, Tries

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class EventLoopTransport:
    """One service, called by one event loop."""

    def __init__(
        self, http: httpx.AsyncClient, base: str, headers: dict[str, str], *, timeout_s: float, retries: RetryPolicy
    ) -> None:
        self._http, self._base, self._headers = http, base, headers
        self._timeout_s, self._retries = timeout_s, retries

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def call(self, asked: Request[Answer] | Conversation[Answer]) -> Answer:
        """The answer, when it has come."""
        if isinstance(asked, Request):
            return await self._request(asked)
        result: Any = None
        while True:
            try:
                step = asked.send(result)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                result = None
            else:
                result = await self._request(step)

    async def walk(self, asked: Walk[Item] | Follow[Item]) -> AsyncIterator[Item]:
        """The items, as they are asked for."""
        if isinstance(asked, Follow):
            async for message in self._messages(asked):
                async for item in self.walk(asked.pick(message)):
                    yield item
            return
        result: Any = None
        while True:
            try:
                step = asked.send(result)
            except StopIteration:
                return
            if isinstance(step, Emit):
                for item in step.items:
                    yield item
                result = None
            else:
                result = await self._request(step)

    async def _request(self, request: Request[Answer]) -> Answer:
        tries = Tries(request, self._retries, self._timeout_s, self._base)
        while True:
            try:
                response = await self._try(request, tries.limit_s)
            except httpx.TransportError as error:
                pause: float | None = tries.pause_after_error(error)
            else:
                pause = tries.pause_after_answer(response)
                if pause is None:
                    return answer_of(request, response)
            await asyncio.sleep(pause or 0.0)

    async def _try(self, request: Request[Any], limit_s: float) -> httpx.Response:
        url = self._base + request.path
        asked = sent(request)
        asked["headers"] |= self._headers
        if request.target is None:
            return await self._http.request(request.method, url, timeout=limit_s, **asked)
        part = part_of(request.target)
        try:
            async with self._http.stream(request.method, url, timeout=limit_s, **asked) as response:
                if response.is_error:
                    await response.aread()
                    return response
                with part.open("wb") as file:
                    async for chunk in response.aiter_bytes():
                        file.write(chunk)
            part.replace(request.target)
        finally:
            part.unlink(missing_ok=True)
        return httpx.Response(response.status_code, request=response.request)

    async def _messages(self, follow: Follow[Any]) -> AsyncIterator[StreamMessage]:
        live = LiveStream(experiment_id=follow.experiment_id, last_event_id=follow.last_event_id)
        while not live.has_ended:
            broken: Exception | None = None
            try:
                async for message in self._connection(live):
                    live.saw(message)
                    yield message
            except httpx.TransportError as error:
                broken = error
            if not live.has_ended:
                await asyncio.sleep(live.pause_s(broken))

    async def _connection(self, live: LiveStream) -> AsyncIterator[StreamMessage]:
        url = self._base + path("experiments", live.experiment_id, "stream")
        timeout = httpx.Timeout(10.0, read=SILENCE_S)
        async with self._http.stream("GET", url, headers=self._headers | live.headers(), timeout=timeout) as response:
            if response.status_code in RETRY_STATUSES:
                raise httpx.ReadError(f"HTTP {response.status_code}")
            if response.is_error:
                await response.aread()
                refuse_errors(response)
            parser = MessageParser()
            async for line in response.aiter_lines():
                if (message := parser.take(line)) is not None:
                    yield message
