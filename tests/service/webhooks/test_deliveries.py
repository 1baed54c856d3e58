"""From a status change to what its receiver has verified, and what happens when it does not listen."""

import asyncio
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from sqlalchemy import func, select, update

from service import experiments
from service.access import Actor
from service.errors import InvalidRequest, NotAllowedNow
from service.storage.database import Sessions
from service.storage.tables import User
from service.storage.webhook_tables import Webhook, WebhookDelivery
from service.tenancy import projects, users
from service.webhooks import deliveries, registry
from service.webhooks.deliveries import FIRST_WAIT_S, LONGEST_WAIT_S, MAX_ATTEMPTS, wait_s
from service.webhooks.loop import DeliveryLoop
from service.webhooks.registry import WebhookChange
from service.webhooks.sending import Sender
from service.webhooks.signature import SECRET_PREFIX, shown_secret, signed_headers
from tests.factories import find_project, make_attempt, make_experiment, make_user
from tests.service.webhooks.receiver import FAILED, OK, Received, Receiver, receiving, resolve_to_loopback

pytestmark = pytest.mark.anyio
KEY = b"k" * 32


async def add_webhook(
    sessions: Sessions, receiver: Receiver, *, events: list[str] | None = None, name: str = "chat"
) -> Webhook:
    async with sessions.begin() as session:
        user: Actor = await make_user(session)
        project = await find_project(session)
        return await registry.create(
            session, user, project, name=name, url=receiver.url, events=events or [], allowed_hosts=[receiver.host]
        )


@asynccontextmanager
async def a_loop(sessions: Sessions, *receivers: Receiver, timeout_s: float = 5.0) -> AsyncIterator[DeliveryLoop]:
    sender = Sender([one.host for one in receivers], resolve=resolve_to_loopback, timeout_s=timeout_s)
    yield DeliveryLoop(sessions, sender, KEY)
    await sender.close()


async def all_deliveries(sessions: Sessions) -> list[WebhookDelivery]:
    async with sessions() as session:
        return list(await session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))


async def make_due(sessions: Sessions) -> None:
    """As if the wait until the next try were over."""
    async with sessions.begin() as session:
        await session.execute(update(WebhookDelivery).values(next_attempt_at=func.now()))


def verified(request: Received, secret: str) -> dict[str, object]:
    """What a receiver does, as the documentation shows it."""
    key = b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = "v1," + b64encode(hmac.new(key, signed, sha256).digest()).decode()
    assert any(hmac.compare_digest(expected, one) for one in request.headers["webhook-signature"].split())
    message: dict[str, object] = json.loads(request.body)
    return message


async def test_a_status_change_is_told_signed_and_only_to_who_asked(sessions: Sessions) -> None:
    async with receiving() as receiver, a_loop(sessions, receiver) as loop:
        webhook = await add_webhook(sessions, receiver, events=["experiment.cancelled"])
        async with sessions.begin() as session:
            experiment = await make_experiment(session, name="toy", tags=["a"])
            await experiments.cancel(session, experiment.id, user=await make_user(session))
        assert await loop.run_once()
        assert not await loop.run_once()

    message = verified(receiver.received[0], shown_secret(KEY, webhook))
    assert len(receiver.received) == 1
    assert (message["type"], message["project"]) == ("experiment.cancelled", "default")
    told = message["experiment"]
    assert isinstance(told, dict)
    assert (told["id"], told["status"], told["user"], told["tags"]) == (experiment.id, "cancelled", "ada", ["a"])
    (delivery,) = await all_deliveries(sessions)
    assert (delivery.status, delivery.last_status, delivery.last_answer) == ("delivered", 200, "thank")
    assert receiver.received[0].headers["webhook-id"] == message["id"] == delivery.id


async def test_every_status_from_the_queue_to_the_end_is_an_event_in_order(sessions: Sessions) -> None:
    async with receiving() as receiver:
        await add_webhook(sessions, receiver)
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await experiments.cancel(session, attempt.experiment_id, user=await make_user(session))
    found = await all_deliveries(sessions)
    assert [one.event.split(".")[1] for one in found] == ["queued", "admitted", "running", "cancelling"]
    sequence = [json.loads(one.body)["sequence"] for one in found]
    assert sequence == sorted(sequence)


async def test_what_is_rolled_back_is_never_told(sessions: Sessions) -> None:
    async with receiving() as receiver:
        await add_webhook(sessions, receiver)
    async with sessions() as session:
        await make_experiment(session)
        await session.rollback()
    assert await all_deliveries(sessions) == []


async def test_another_project_hears_nothing(sessions: Sessions) -> None:
    async with receiving() as receiver:
        await add_webhook(sessions, receiver)
    async with sessions.begin() as session:
        await projects.create(session, None, "other")
        await make_experiment(session, project="other")
    assert await all_deliveries(sessions) == []


async def test_a_failed_try_is_repeated_later_with_the_same_message(sessions: Sessions) -> None:
    async with receiving(FAILED, OK) as receiver, a_loop(sessions, receiver) as loop:
        await add_webhook(sessions, receiver, events=["experiment.queued"])
        async with sessions.begin() as session:
            await make_experiment(session)
        await loop.run_once()
        (pending,) = await all_deliveries(sessions)
        assert (pending.status, pending.num_attempts, pending.last_answer) == ("pending", 1, "oops")
        assert not await loop.run_once(), "not before its time"
        await make_due(sessions)
        await loop.run_once()
    first, second = receiver.received
    assert first.body == second.body and first.headers["webhook-id"] == second.headers["webhook-id"]
    assert (await all_deliveries(sessions))[0].status == "delivered"


async def test_after_the_last_try_a_message_is_dead_with_its_last_answer_and_can_be_sent_again(
    sessions: Sessions,
) -> None:
    async with receiving(*[FAILED] * MAX_ATTEMPTS, OK) as receiver, a_loop(sessions, receiver) as loop:
        webhook = await add_webhook(sessions, receiver, events=["experiment.queued"])
        async with sessions.begin() as session:
            await make_experiment(session)
        for _ in range(MAX_ATTEMPTS + 1):
            await make_due(sessions)
            await loop.run_once()
        (dead,) = await all_deliveries(sessions)
        assert len(receiver.received) == MAX_ATTEMPTS
        assert (dead.status, dead.last_status, dead.last_answer) == ("dead", 500, "oops")
        async with sessions.begin() as session:
            ada, default = await make_user(session), await find_project(session)
            await deliveries.redeliver(session, ada, default, webhook, dead.id)
            with pytest.raises(NotAllowedNow, match="on its way"):
                await deliveries.redeliver(session, ada, default, webhook, dead.id)
        await loop.run_once()
    (again,) = await all_deliveries(sessions)
    assert (again.status, again.num_attempts, again.id) == ("delivered", 1, dead.id)


async def test_two_senders_send_a_message_once(sessions: Sessions) -> None:
    async with receiving() as receiver, a_loop(sessions, receiver) as one, a_loop(sessions, receiver) as two:
        await add_webhook(sessions, receiver, events=["experiment.queued"])
        async with sessions.begin() as session:
            for _ in range(8):
                await make_experiment(session)
        while any(await asyncio.gather(one.run_once(), two.run_once())):
            pass
    assert len({request.headers["webhook-id"] for request in receiver.received}) == len(receiver.received) == 8


async def test_a_message_of_a_sender_that_died_is_taken_up(sessions: Sessions) -> None:
    async with receiving() as receiver, a_loop(sessions, receiver) as loop:
        await add_webhook(sessions, receiver, events=["experiment.queued"])
        async with sessions.begin() as session:
            await make_experiment(session)
        async with sessions.begin() as session:
            assert len(await deliveries.claim(session, 10)) == 1
        assert not await loop.run_once()
        async with sessions.begin() as session:
            await session.execute(update(WebhookDelivery).values(claimed_until=func.now() - timedelta(seconds=1)))
        assert await loop.run_once()
    (delivered,) = await all_deliveries(sessions)
    assert (delivered.status, delivered.num_attempts) == ("delivered", 2)


async def test_a_slow_receiver_does_not_hold_up_another(sessions: Sessions) -> None:
    async with receiving(None) as slow, receiving() as quick, a_loop(sessions, slow, quick, timeout_s=10) as loop:
        await add_webhook(sessions, slow, name="slow", events=["experiment.queued"])
        async with sessions.begin() as session:
            for _ in range(40):
                await make_experiment(session)
        await add_webhook(sessions, quick, name="quick", events=["experiment.queued"])
        async with sessions.begin() as session:
            await make_experiment(session)
        running = asyncio.create_task(loop.run())
        async with asyncio.timeout(8):
            while not quick.received:
                await asyncio.sleep(0.02)
        assert len(slow.received) <= 4, "so many at once, and no more"
        running.cancel()
        await asyncio.wait([running])


async def test_old_deliveries_are_forgotten(sessions: Sessions) -> None:
    async with receiving() as receiver:
        await add_webhook(sessions, receiver)
    async with sessions.begin() as session:
        await make_experiment(session)
        old = {"status": "dead", "finished_at": func.now() - timedelta(days=31)}
        await session.execute(update(WebhookDelivery).values(old))
        await make_experiment(session)
        assert await deliveries.forget_old(session) == 1
    assert len(await all_deliveries(sessions)) == 1


def test_after_a_rotation_both_secrets_sign_for_a_day() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    webhook = Webhook(id="wh-1", secret_version=1, secret_rotated_at=None)
    before = shown_secret(KEY, webhook)
    webhook.secret_version, webhook.secret_rotated_at = 2, now
    for age, secrets in ((timedelta(hours=23), 2), (timedelta(hours=25), 1)):
        headers = signed_headers(KEY, webhook, "whd-1", b"{}", now + age)
        assert len(headers["webhook-signature"].split()) == secrets
        request = Received(headers=headers, body=b"{}")
        verified(request, shown_secret(KEY, webhook))
        if secrets == 2:
            verified(request, before)
    assert before != shown_secret(KEY, webhook)


@pytest.mark.parametrize(("num_attempts", "base"), [(1, FIRST_WAIT_S), (2, 2 * FIRST_WAIT_S), (50, LONGEST_WAIT_S)])
def test_waits_double_with_jitter_up_to_an_hour(num_attempts: int, base: float) -> None:
    assert wait_s(num_attempts, draw=0.0) == base / 2
    assert base * 0.99 < wait_s(num_attempts, draw=0.999) <= base
    assert wait_s(num_attempts, asked_for_s=10_000, draw=0.0) == LONGEST_WAIT_S


async def test_a_project_has_so_many_webhooks_and_each_its_own_name(sessions: Sessions) -> None:
    async with receiving() as receiver:
        first = await add_webhook(sessions, receiver, name="hook-0")
        with pytest.raises(NotAllowedNow, match="already"):
            await add_webhook(sessions, receiver, name="hook-0")
        for number in range(1, registry.MAX_PER_PROJECT):
            await add_webhook(sessions, receiver, name=f"hook-{number}")
        with pytest.raises(NotAllowedNow, match="limit"):
            await add_webhook(sessions, receiver, name="more")
    async with sessions.begin() as session:
        ada: User = await users.get_user(session, "ada")
        default = await find_project(session)
        with pytest.raises(NotAllowedNow, match="already"):
            await registry.change(session, ada, default, first.id, WebhookChange(name="hook-1"), allowed_hosts=())
        with pytest.raises(InvalidRequest, match="https"):
            await registry.change(session, ada, default, first.id, WebhookChange(url="http://x"), allowed_hosts=())


async def test_an_inactive_webhook_gets_no_new_messages(sessions: Sessions) -> None:
    async with receiving() as receiver:
        webhook = await add_webhook(sessions, receiver)
    async with sessions.begin() as session:
        ada, default = await make_user(session), await find_project(session)
        await registry.change(session, ada, default, webhook.id, WebhookChange(is_active=False), allowed_hosts=())
        await make_experiment(session)
    assert await all_deliveries(sessions) == []
