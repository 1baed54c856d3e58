"""Seeds that follow from the run's one seed and a purpose."""

from hashlib import sha256


def derive_seed(run_seed: int, *parts: str | int) -> int:
    """A seed in [0, 2**63) for one purpose, such as `derive_seed(seed, "trainer", rank)`.

    From SHA-256, so it is the same on every machine and version, and two purposes never share a stream by accident.
    """
    text = "/".join([str(run_seed), *map(str, parts)])
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1
