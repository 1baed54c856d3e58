"""What a log-in that has begun must remember: in the browser, signed; nothing is stored here.

Nonce and PKCE verifier are derived from the state with the server's key, so the browser does not hold them either.
"""

import hmac
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256

from service.errors import LoginFailed

COOKIE = "sedray_login"
LIFE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginState:
    """One log-in on its way."""

    state: str
    nonce: str
    verifier: str
    following: str
    """The path to go to afterwards."""
    expires_at: float
    """Seconds since 1970."""

    def cookie(self, key: bytes) -> str:
        """The signed cookie."""
        content = _encode(json.dumps([self.state, self.following, self.expires_at]).encode())
        return f"{content}.{_mark(key, 'cookie', content)}"


def begin(key: bytes, following: str) -> LoginState:
    """A new log-in, good for ten minutes."""
    return _with_secrets(key, secrets.token_urlsafe(32), following, time.time() + LIFE_S)


def resume(key: bytes, cookie: str | None, state: str) -> LoginState:
    """The log-in that this browser began; raises LoginFailed if it did not, or too long ago."""
    content, _, mark = (cookie or "").partition(".")
    if not hmac.compare_digest(mark.encode(), _mark(key, "cookie", content).encode()):
        raise LoginFailed("this browser has begun no log-in, or begun it too long ago; begin again")
    known, following, expires_at = json.loads(_decode(content))
    if not hmac.compare_digest(known.encode(), state.encode()):
        raise LoginFailed("the answer belongs to another log-in; begin again")
    if time.time() > expires_at:
        raise LoginFailed("the log-in has taken too long; begin again")
    return _with_secrets(key, known, following, expires_at)


def _with_secrets(key: bytes, state: str, following: str, expires_at: float) -> LoginState:
    return LoginState(
        state=state,
        nonce=_mark(key, "nonce", state),
        verifier=_mark(key, "verifier", state),
        following=following,
        expires_at=expires_at,
    )


def _mark(key: bytes, purpose: str, text: str) -> str:
    """43 characters of a URL's alphabet, which is what a PKCE verifier may be."""
    return _encode(hmac.new(key, f"oidc {purpose}:{text}".encode(), sha256).digest())


def _encode(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
