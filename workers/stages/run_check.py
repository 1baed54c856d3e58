"""The check of every wait: what ends a run from outside, and what a stage adds while it has work in other threads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Check = Callable[[], None]
"""Raises when the calling thread must end its wait now."""


class RunCheck:
    """Called at least twice a second in every wait, from any thread."""

    def __init__(self, check: Check) -> None:
        self._checks: tuple[Check, ...] = (check,)

    def __call__(self) -> None:
        """Raise what the first check that objects raises."""
        for check in self._checks:
            check()

    @contextmanager
    def extended_by(self, check: Check) -> Iterator[None]:
        """Ask `check` too as long as the block lasts, in all threads."""
        self._checks = (*self._checks, check)
        try:
            yield
        finally:
            self._checks = tuple(known for known in self._checks if known is not check)
