"""The snippet in docs/access.md verifies what we sign."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.storage.webhook_tables import Webhook
from service.webhooks.signature import shown_secret, signed_headers

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "access.md"
KEY = b"k" * 32


def documented_verify() -> Callable[[str, dict[str, str], bytes], None]:
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)
    verify: Callable[[str, dict[str, str], bytes], None] = names["verify"]
    return verify


def test_it_accepts_ours_and_refuses_the_rest() -> None:
    verify, webhook = documented_verify(), Webhook(id="wh-1", secret_version=1)
    secret, now = shown_secret(KEY, webhook), datetime.now(UTC)
    headers = signed_headers(KEY, webhook, "whd-1", b'{"a": 1}', now)
    verify(secret, headers, b'{"a": 1}')
    with pytest.raises(ValueError, match="not signed"):
        verify(secret, headers, b'{"a": 2}')
    with pytest.raises(ValueError, match="not signed"):
        verify(secret, {**headers, "webhook-id": "whd-2"}, b'{"a": 1}')
    old = signed_headers(KEY, webhook, "whd-1", b'{"a": 1}', now - timedelta(minutes=6))
    with pytest.raises(ValueError, match="too old"):
        verify(secret, old, b'{"a": 1}')
