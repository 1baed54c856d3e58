"""Each call is described once; a blocking or an asynchronous transport carries it out.

    class QueueCalls(Part[AnyTransport]):
        @call
        def queue(self) -> Request[QueueOut]:
            return get(QueueOut, path("queue"))

    SedrayClient(...).queue()             -> QueueOut
    await AsyncSedrayClient(...).queue()  -> QueueOut

What takes several requests is a generator that is sent each answer: `page = yield from ask(get(...))`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, wraps
from inspect import Signature, signature
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from api.client.live import StreamMessage
from api.client.requests import Request

Answer = TypeVar("Answer")
Item = TypeVar("Item")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Pause:
    """A step of a conversation: wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit(Generic[Item]):
    """A step of a walk: what the iterator gives out next."""

    items: Iterable[Item]


Conversation = Generator[Request[Any] | Pause, Any, Answer]
"""Several steps that end in an answer; each request is sent its own."""
Walk = Generator[Request[Any] | Emit[Item], Any, None]
"""Several requests with items between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow(Generic[Item]):
    """The live stream of an experiment, and what each of its messages gives out."""

    experiment_id: str
    last_event_id: str | None
    pick: Callable[[StreamMessage], Walk[Item]]


class Transport(Protocol):
    """Carries calls out and blocks meanwhile."""

    def call(self, asked: Request[Answer] | Conversation[Answer]) -> Answer:
        """The answer."""
        ...

    def walk(self, asked: Walk[Item] | Follow[Item]) -> Iterator[Item]:
        """The items, as they are asked for."""
        ...


class AsyncTransport(Protocol):
    """Carries calls out in an event loop."""

    async def call(self, asked: Request[Answer] | Conversation[Answer]) -> Answer:
        """The answer."""
        ...

    def walk(self, asked: Walk[Item] | Follow[Item]) -> AsyncIterator[Item]:
        """The items, as they are asked for."""
        ...


AnyTransport = TypeVar("AnyTransport", bound=Transport | AsyncTransport)


class Part(Generic[AnyTransport]):
    """A part of the client: calls over one transport."""

    def __init__(self, transport: AnyTransport) -> None:
        self.transport: AnyTransport = transport


class call(Generic[P, Answer]):
    """Makes a method that describes a call into one that carries it out."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Request[Answer] | Conversation[Answer]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Part[Transport], owner: type) -> Callable[P, Answer]: ...
    @overload
    def __get__(self, part: Part[AsyncTransport], owner: type) -> Callable[P, Awaitable[Answer]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self if part is None else _carried_out(self._describe, part, part.transport.call)


class walk(Generic[P, Item]):
    """The same for what gives an iterator: of an asynchronous client, an asynchronous one."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Walk[Item] | Follow[Item]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Part[Transport], owner: type) -> Callable[P, Iterator[Item]]: ...
    @overload
    def __get__(self, part: Part[AsyncTransport], owner: type) -> Callable[P, AsyncIterator[Item]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self if part is None else _carried_out(self._describe, part, part.transport.walk)


def ask(request: Request[Answer]) -> Generator[Request[Any], Any, Answer]:
    """In a conversation or a walk: `answer = yield from ask(request)`, with the answer's type."""
    answer: Answer = yield request
    return answer


def collect(items: Walk[Item], most: int | None = None) -> Conversation[list[Item]]:
    """In a conversation: the items of a walk, or the first `most`."""
    found: list[Item] = []
    result: Any = None
    while most is None or len(found) < most:
        try:
            step = items.send(result)
        except StopIteration:
            break
        if isinstance(step, Emit):
            found += step.items
            result = None
        else:
            result = yield step
    return found[:most]


def _carried_out(describe: Callable[..., Any], part: object, carry_out: Callable[[Any], Any]) -> Callable[..., Any]:
    """The method of `part`, with the name, parameters and docstring of the description."""
    bound = describe.__get__(part)

    @wraps(bound)
    def method(*args: Any, **kwargs: Any) -> Any:
        return carry_out(bound(*args, **kwargs))

    method.__signature__ = _parameters_of(describe)  # type: ignore[attr-defined]
    return method


@cache
def _parameters_of(describe: Callable[..., Any]) -> Signature:
    """As `help` shows them: without `self`, and without the description that is returned to nobody."""
    _, *parameters = signature(describe).parameters.values()
    return Signature(parameters)
