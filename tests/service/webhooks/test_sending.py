"""One try, against a real receiver."""

import ssl
from pathlib import Path

import pytest

from service.webhooks.addresses import Resolve
from service.webhooks.sending import MAX_ANSWER_BYTES, Outcome, Sender
from tests.service.webhooks.receiver import FAILED, Receiver, make_certificate, receiving, resolve_to_loopback

pytestmark = pytest.mark.anyio


async def try_once(
    receiver: Receiver,
    url: str | None = None,
    *,
    resolve: Resolve = resolve_to_loopback,
    verify: ssl.SSLContext | bool = True,
    timeout_s: float = 5.0,
    allowed: bool = True,
) -> Outcome:
    hosts = [receiver.host, "other.test"] if allowed else []
    sender = Sender(hosts, resolve=resolve, verify=verify, timeout_s=timeout_s)
    try:
        return await sender.send(url or receiver.url, b'{"a":1}', {"webhook-id": "whd-1"})
    finally:
        await sender.close()


async def test_a_message_arrives_under_the_name_of_its_host() -> None:
    async with receiving() as receiver:
        outcome = await try_once(receiver)
    assert (outcome.is_delivered, outcome.status, outcome.answer) == (True, 200, "thank")
    request = receiver.received[0]
    assert (request.body, request.headers["host"]) == (b'{"a":1}', receiver.host)
    assert (request.headers["webhook-id"], request.headers["content-type"]) == ("whd-1", "application/json")


async def test_an_internal_address_gets_no_connection() -> None:
    async with receiving() as receiver:
        outcome = await try_once(receiver, f"https://hooks.test:{receiver.port}/in", allowed=False)
    assert outcome.is_final and "not a public address" in outcome.error
    assert receiver.received == []


async def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    """Resolved once: what was checked is what is connected to."""
    answers = [["127.0.0.1"], ["127.0.0.9"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0)

    async with receiving() as receiver:
        assert (await try_once(receiver, resolve=resolve)).is_delivered
    assert len(answers) == 1


async def test_redirects_are_not_followed() -> None:
    async with receiving() as other:
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{other.port}/\r\nContent-Length: 0\r\n\r\n"
        async with receiving(moved.encode()) as receiver:
            outcome = await try_once(receiver)
    assert (outcome.status, outcome.is_delivered, outcome.is_final) == (302, False, False)
    assert "redirects are not followed" in outcome.error and other.received == []


async def test_a_silent_receiver_costs_its_time_limit_only() -> None:
    async with receiving(None) as receiver:
        outcome = await try_once(receiver, timeout_s=0.3)
    assert (outcome.status, outcome.error) == (None, "no answer within 0.3 s")


async def test_only_the_beginning_of_an_endless_answer_is_read() -> None:
    async with receiving(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000) as receiver:
        outcome = await try_once(receiver)
    assert len(outcome.answer) == MAX_ANSWER_BYTES


async def test_a_closed_port_and_an_unknown_name_are_outcomes() -> None:
    async with receiving() as receiver:
        url = receiver.url
    assert "ConnectError" in (await try_once(receiver, url)).error

    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("name unknown")

    assert "name unknown" in (await try_once(receiver, resolve=unknown)).error


async def test_what_the_receiver_asks_for_is_heard() -> None:
    busy = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    async with receiving(busy, FAILED, b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n") as receiver:
        first, second, third = [await try_once(receiver) for _ in range(3)]
    assert (first.retry_after_s, second.retry_after_s) == (7.0, None)
    assert (second.answer, second.is_final, third.is_final) == ("oops", False, True)


async def test_the_certificate_must_be_that_of_the_name(tmp_path: Path) -> None:
    server, client = make_certificate(tmp_path, "hooks.test")
    async with receiving(tls=server) as receiver:
        ours = await try_once(receiver, f"https://hooks.test:{receiver.port}/", verify=client)
        another = await try_once(receiver, f"https://other.test:{receiver.port}/", verify=client)
        unknown = await try_once(receiver, f"https://hooks.test:{receiver.port}/")
    assert ours.is_delivered
    assert "certificate" in another.error.lower() and "certificate" in unknown.error.lower()
