"""The trainer's end of a transfer over NCCL, through vLLM's own trainer side.

    join ──> group ── send ──> group ── send ──> ...
      │                │ an engine fails, or time is up
      v                v
    no group <── torn down: its communicator is aborted, so that nobody waits in it any more

All ranks call all methods; the first one alone is in the group. What hangs in NCCL hangs in a thread of its own.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from workers.actors.nccl_engines import EngineGroupClient, Engines
from workers.actors.policy_model import PolicyModel
from workers.actors.weight_source import PolicySource
from workers.weight_sync import SendReport, WeightSyncFailed

logger = logging.getLogger(__name__)

_LOOK_S = 0.2
_GRACE_S = 10.0
"""What a thread gets to end by itself after a failure, and again after its communicator was aborted."""


class NcclSender:
    """One trainer rank's part in it."""

    def __init__(self, policy: PolicyModel, host: str) -> None:
        """`host` is the address under which the engines reach the first rank."""
        self._policy, self._host = policy, host
        self._source = PolicySource(policy)
        self._group: Any = None
        """vLLM's trainer engine."""
        self._client: EngineGroupClient | None = None
        self._names: tuple[str, ...] = ()

    def join(self, engines: Engines, names: Sequence[str], deadline_s: float) -> str | None:
        """Make a group with these engines; returns why there is none, if so. The one before is torn down.

        Does nothing where there is a group with engines of these names, in this order.

        Raises WeightSyncFailed if a thread of the first rank is lost in NCCL, so that this process must end.
        """
        return self._policy.ranks.from_first(lambda: self._join(engines, tuple(names), deadline_s))

    def send(self, deadline_s: float, *, with_digests: bool) -> SendReport:
        """Send the present weights to all engines of the group. Raises WeightSyncFailed as `join` does."""
        self._source.begin(with_digests=with_digests)
        if not self._policy.ranks.is_first:
            self._source.drain()
        return self._policy.ranks.from_first(lambda: self._send(deadline_s))

    def close(self) -> None:
        """Leave the group, at once and without the others."""
        group, self._group, self._client = self._group, None, None
        if group is not None:
            group.shutdown()

    def _join(self, engines: Engines, names: tuple[str, ...], deadline_s: float) -> str | None:
        if self._group is not None and self._names == names:
            return None
        self.close()
        client = EngineGroupClient(engines, deadline_s, lambda: self._source.digests)

        def meet() -> None:
            self._group = _meet(client, self._host, self._source)

        self._client, self._names = client, names
        return self._in_time(meet, deadline_s)

    def _send(self, deadline_s: float) -> SendReport:
        if self._group is None:
            self._source.drain()
            return SendReport(failure="there is no transfer group")
        if self._policy.device.type != "cpu":
            torch.accelerator.synchronize()  # vLLM reads on streams of its own
        failure = self._in_time(self._group.send_weights, deadline_s)
        if failure is not None:
            self._source.drain()
        return SendReport(failure=failure)

    def _in_time(self, call: Callable[[], None], deadline_s: float) -> str | None:
        """Why a call did not succeed, if so; the group is gone then."""
        errors: list[BaseException] = []
        thread = threading.Thread(target=_caught, args=(call, self._policy.device, errors), daemon=True)
        thread.start()
        limit = time.monotonic() + deadline_s
        while thread.is_alive() and time.monotonic() < limit and not self._has_lost_an_engine():
            thread.join(_LOOK_S)
        if self._has_lost_an_engine():
            thread.join(_GRACE_S)
        if not thread.is_alive() and not errors:
            return None
        lost = self._client.failure if self._client is not None else None
        self.close()
        thread.join(_GRACE_S)
        if thread.is_alive():
            raise WeightSyncFailed(f"the trainer hangs in NCCL since an engine failed ({lost!r}): start it again")
        error = lost or (errors[0] if errors else None)
        return f"not done within {deadline_s:.0f} s" if error is None else f"{type(error).__name__}: {error}"

    def _has_lost_an_engine(self) -> bool:
        return self._client is not None and self._client.failure is not None


def _meet(client: EngineGroupClient, host: str, source: PolicySource) -> Any:
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    info = NCCLTrainerInitInfo(
        master_address=host, master_port=_free_port(host), world_size=client.world_size, packed=True, rank=0
    )
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _caught(call: Callable[[], None], device: torch.device, errors: list[BaseException]) -> None:
    try:
        if device.type != "cpu":
            torch.accelerator.set_device_index(device)  # a new thread has device 0, and gradients on
        with torch.no_grad():
            call()
    except BaseException as error:
        errors.append(error)
