"""Who may do what: people by API tokens, drivers by the token of their attempt."""

import hmac
from hashlib import sha256

ATTEMPT_TOKEN_PREFIX = "sa_"


def attempt_token(secret: bytes, attempt_id: str, number: int) -> str:
    """The token of one attempt, derived (HMAC-SHA256) and never stored: making it again gives the same."""
    digest = hmac.new(secret, f"attempt:{attempt_id}:{number}".encode(), sha256).hexdigest()
    return ATTEMPT_TOKEN_PREFIX + digest
