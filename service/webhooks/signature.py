"""Signatures as Standard Webhooks (standardwebhooks.com) describes them, so that its libraries verify ours.

    webhook-id         the message's, the same at each try
    webhook-timestamp  seconds since 1970, of this try
    webhook-signature  v1,<base64 of HMAC-SHA256(secret, "<id>.<timestamp>.<body>")>, several parted by a space

The secret is HMAC-SHA256(server key, "webhook:<id>:<version>"): derived, so that none is stored. A rotation raises the
version; for a day both sign.
"""

import hmac
from base64 import b64encode
from datetime import datetime, timedelta
from hashlib import sha256

from service.storage.webhook_tables import Webhook

SECRET_PREFIX = "whsec_"
OVERLAP = timedelta(days=1)
"""For so long after a rotation the secret before still signs."""


def shown_secret(key: bytes, webhook: Webhook) -> str:
    """The secret as its receiver keeps it."""
    return SECRET_PREFIX + b64encode(_secret(key, webhook.id, webhook.secret_version)).decode()


def signed_headers(key: bytes, webhook: Webhook, message_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """The headers that go with a body sent at `now`."""
    timestamp = str(int(now.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = (
        "v1," + b64encode(hmac.new(_secret(key, webhook.id, version), signed, sha256).digest()).decode()
        for version in _versions(webhook, now)
    )
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }


def _versions(webhook: Webhook, now: datetime) -> list[int]:
    rotated = webhook.secret_rotated_at
    overlaps = rotated is not None and now - rotated < OVERLAP
    return [webhook.secret_version, *([webhook.secret_version - 1] if overlaps else [])]


def _secret(key: bytes, webhook_id: str, version: int) -> bytes:
    return hmac.new(key, f"webhook:{webhook_id}:{version}".encode(), sha256).digest()
