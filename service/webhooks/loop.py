"""The loop that sends. Any number of processes may run it: a claim keeps two from sending the same message at once."""

import asyncio
import logging
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from service.storage.database import Sessions
from service.webhooks import deliveries
from service.webhooks.deliveries import Claimed
from service.webhooks.sending import Sender
from service.webhooks.signature import signed_headers

logger = logging.getLogger(__name__)

_SLOTS = 32
"""So many tries may be on their way at once."""
_POLL_S = 2.0
_SETTLE_S = 0.2
"""Everything that happens to an experiment sets the event; so many looks a second are enough."""
_FORGET_EVERY_S = 3600.0


class DeliveryLoop:
    """Claims what is due, sends it, notes what became of it. A slow receiver takes slots, but holds up nobody else."""

    def __init__(self, sessions: Sessions, sender: Sender, key: bytes) -> None:
        self._sessions = sessions
        self._sender = sender
        self._key = key
        self._forgets_at = 0.0
        self._tries: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()
        """Set by whoever knows that there may be something to send; the loop itself, when a slot is free again."""

    async def run(self) -> None:
        """Until cancelled; over an absent database too. Tries that are on their way end with it."""
        try:
            while True:
                self.changed.clear()
                await self._pass()
                await asyncio.sleep(_SETTLE_S)
                await _first_of(self.changed, _POLL_S)
        finally:
            for task in self._tries:
                task.cancel()

    async def run_once(self) -> bool:
        """Starts what is due and waits for it; returns whether there was anything."""
        started = await self._start_due()
        await asyncio.gather(*self._tries)
        return started > 0

    async def _pass(self) -> None:
        try:
            while len(self._tries) < _SLOTS and await self._start_due():
                pass
            await self._forget()
        except (SQLAlchemyError, OSError) as error:
            logger.warning("webhooks wait for the database", extra={"error": str(error)})
        except Exception:
            logger.exception("webhook pass failed, the next one tries again")

    async def _start_due(self) -> int:
        async with self._sessions.begin() as session:
            claimed = await deliveries.claim(session, _SLOTS - len(self._tries))
        for one in claimed:
            task = asyncio.create_task(self._send(one))
            self._tries.add(task)
            task.add_done_callback(self._free_slot)
        return len(claimed)

    def _free_slot(self, task: asyncio.Task[None]) -> None:
        self._tries.discard(task)
        self.changed.set()

    async def _send(self, claimed: Claimed) -> None:
        facts = {"webhook_id": claimed.webhook.id, "delivery_id": claimed.delivery.id}
        body = claimed.delivery.body.encode()
        headers = signed_headers(self._key, claimed.webhook, claimed.delivery.id, body, datetime.now(UTC))
        try:
            outcome = await self._sender.send(claimed.webhook.url, body, headers)
            async with self._sessions.begin() as session:
                status = await deliveries.settle(session, claimed, outcome)
        except Exception:
            # The claim runs out, and then the message is tried again.
            logger.exception("webhook try not settled", extra=facts)
            return
        logger.info(
            "webhook tried", extra={**facts, "status": status, "http_status": outcome.status, "error": outcome.error}
        )

    async def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._forgets_at:
            return
        self._forgets_at = now + _FORGET_EVERY_S
        async with self._sessions.begin() as session:
            if number := await deliveries.forget_old(session):
                logger.info("old webhook deliveries forgotten", extra={"number": number})


async def _first_of(event: asyncio.Event, timeout_s: float) -> None:
    """Returns when the event is set, or after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
