"""Calls over an `httpx.Client`."""

import time
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx

from api.client.answers import answer_of, part_of, refuse_errors, sent
from api.client.calls import Conversation, Emit, Follow, Pause, Walk
from api.client.live import RETRY_STATUSES, SILENCE_S, LiveStream, MessageParser, StreamMessage
from api.client.requests import Request, path
from api.client.retrying import RetryPolicy, Tries

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class BlockingTransport:
    """One service, called by one thread at a time or by several: `httpx.Client` allows both."""

    def __init__(
        self, http: httpx.Client, base: str, headers: dict[str, str], *, timeout_s: float, retries: RetryPolicy
    ) -> None:
        self._http, self._base, self._headers = http, base, headers
        self._timeout_s, self._retries = timeout_s, retries

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(self, asked: Request[Answer] | Conversation[Answer]) -> Answer:
        """The answer, when it has come."""
        if isinstance(asked, Request):
            return self._request(asked)
        result: Any = None
        while True:
            try:
                step = asked.send(result)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                result = None
            else:
                result = self._request(step)

    def walk(self, asked: Walk[Item] | Follow[Item]) -> Iterator[Item]:
        """The items, as they are asked for."""
        if isinstance(asked, Follow):
            for message in self._messages(asked):
                yield from self.walk(asked.pick(message))
            return
        result: Any = None
        while True:
            try:
                step = asked.send(result)
            except StopIteration:
                return
            if isinstance(step, Emit):
                yield from step.items
                result = None
            else:
                result = self._request(step)

    def _request(self, request: Request[Answer]) -> Answer:
        tries = Tries(request, self._retries, self._timeout_s, self._base)
        while True:
            try:
                response = self._try(request, tries.limit_s)
            except httpx.TransportError as error:
                pause: float | None = tries.pause_after_error(error)
            else:
                pause = tries.pause_after_answer(response)
                if pause is None:
                    return answer_of(request, response)
            time.sleep(pause or 0.0)

    def _try(self, request: Request[Any], limit_s: float) -> httpx.Response:
        url = self._base + request.path
        asked = sent(request)
        asked["headers"] |= self._headers
        if request.target is None:
            return self._http.request(request.method, url, timeout=limit_s, **asked)
        part = part_of(request.target)
        try:
            with self._http.stream(request.method, url, timeout=limit_s, **asked) as response:
                if response.is_error:
                    response.read()
                    return response
                with part.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
            part.replace(request.target)
        finally:
            part.unlink(missing_ok=True)
        return httpx.Response(response.status_code, request=response.request)

    def _messages(self, follow: Follow[Any]) -> Iterator[StreamMessage]:
        live = LiveStream(experiment_id=follow.experiment_id, last_event_id=follow.last_event_id)
        while not live.has_ended:
            broken: Exception | None = None
            try:
                for message in self._connection(live):
                    live.saw(message)
                    yield message
            except httpx.TransportError as error:
                broken = error
            if not live.has_ended:
                time.sleep(live.pause_s(broken))

    def _connection(self, live: LiveStream) -> Iterator[StreamMessage]:
        url = self._base + path("experiments", live.experiment_id, "stream")
        timeout = httpx.Timeout(10.0, read=SILENCE_S)
        with self._http.stream("GET", url, headers=self._headers | live.headers(), timeout=timeout) as response:
            if response.status_code in RETRY_STATUSES:
                raise httpx.ReadError(f"HTTP {response.status_code}")
            if response.is_error:
                response.read()
                refuse_errors(response)
            parser = MessageParser()
            for line in response.iter_lines():
                if (message := parser.take(line)) is not None:
                    yield message
