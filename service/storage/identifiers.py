"""Identifiers that sort by the time of their making and are safe in URLs, file names and Ray's submission ids."""

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """`<prefix>-` and 16 characters: 9 for the time in milliseconds, 7 (35 bits) at random within it."""
    return f"{prefix}-{_encode(time.time_ns() // 1_000_000, 9)}{_encode(secrets.randbits(35), 7)}"


def _encode(number: int, length: int) -> str:
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in reversed(range(length)))
