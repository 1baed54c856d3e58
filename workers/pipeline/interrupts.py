"""What ends a run from outside: a signal from Ray, or what the service has said in an acknowledgement."""

import signal
import threading
from collections.abc import Callable


class Terminated(BaseException):
    """SIGTERM: Ray stops the job and kills what is left of it seconds later.

    No `Exception`, so that nothing on the way takes it for a failure of the work.
    """


class Interrupts:
    """One check for all waits."""

    def __init__(self, service_check: Callable[[], None]) -> None:
        self._service_check = service_check
        self._terminated = threading.Event()

    @property
    def terminated(self) -> bool:
        """Whether SIGTERM has come."""
        return self._terminated.is_set()

    def check(self) -> None:
        """Raise Terminated, or what the service's answers demand: Cancelled, AttemptOver, ServiceRefused."""
        # A cancellation that was heard is worth a last word to the service, even when Ray is already stopping the job.
        self._service_check()
        self.check_signal()

    def check_signal(self) -> None:
        """Raise Terminated if SIGTERM has come."""
        if self._terminated.is_set():
            raise Terminated

    def listen(self) -> None:
        """Note SIGTERM from now on; to be called again after `ray.init`, which sets a handler of its own."""
        signal.signal(signal.SIGTERM, lambda *_: self._terminated.set())
