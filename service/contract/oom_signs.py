"""Signs of memory that ran out, in what processes and Ray say of an end. Pure text."""

import re
from collections.abc import Iterable, Iterator

from service.contract.certificates import OomKind, OomSign

_SIGNS: tuple[tuple[OomKind, re.Pattern[str]], ...] = (
    ("gpu", re.compile(r"(?:CUDA|HIP|XPU) out of memory[^\n]*|torch\.(?:cuda\.)?OutOfMemoryError[^\n]*")),
    (
        "ray",
        re.compile(r"[^\n]*(?:running low on memory|memory usage threshold|ray\.exceptions\.OutOfMemoryError)[^\n]*"),
    ),
    ("kernel", re.compile(r"[^\n]*(?:oom-kill|Out of memory: Killed process)[^\n]*")),
    ("host", re.compile(r"(?:^|\n)(?:numpy\._core\._exceptions\._ArrayMemoryError|MemoryError|std::bad_alloc)[^\n]*")),
    ("host", re.compile(r"[^\n]*DefaultCPUAllocator: (?:can't allocate|not enough) memory[^\n]*")),
)
_SHOWN_CHARACTERS = 500


def find_oom_signs(texts: Iterable[str]) -> list[OomSign]:
    """The first sign of each kind."""
    found: dict[OomKind, OomSign] = {}
    for sign in (sign for text in texts for sign in _in(text)):
        found.setdefault(sign.kind, sign)
    return list(found.values())


def _in(text: str) -> Iterator[OomSign]:
    for kind, pattern in _SIGNS:
        match = pattern.search(text)
        if match:
            yield OomSign(kind=kind, detail=match[0].strip()[:_SHOWN_CHARACTERS])
