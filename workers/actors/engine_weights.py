"""The weights of one rollout engine: which version they are, and whether they are known to be right.

    confirmed ── begin ──> updating ── end ──> unconfirmed ── confirm ──> confirmed
                              │ a call fails, or the update's time is over     │
                              v                                                v
                           broken: whoever made this is told why, once ────────┘

An update that has begun ends or breaks the engine: it is never left paused. Between `end` and `confirm` the engine
generates again, because vLLM scores no probe while it is paused; but nothing that it made may leave it before
`until_confirmed` returns.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

from workers.weight_sync import (
    LandingFolder,
    UpdateOrder,
    UpdateReport,
    WeightSyncFailed,
    landing_folder,
    require_shapes,
    tensor_shapes,
)

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
Tokens = tuple[int, ...]
Result = TypeVar("Result")


class Weights(Protocol):
    """What an update asks of vLLM; `VllmWeights` has it."""

    async def pause(self) -> None: ...
    async def start(self) -> None: ...
    async def receive(self, payload: Mapping[str, Any]) -> None: ...
    async def finish(self, version: str) -> None: ...
    async def resume(self) -> None: ...
    async def ask(self, sequences: tuple[Tokens, ...]) -> Any: ...
    async def scores(self, questions: Any) -> tuple[tuple[float, ...], ...]: ...


class EngineWeights:
    """One update after the other, each with a deadline of its own."""

    def __init__(self, weights: Weights, shapes: Shapes, on_broken: Callable[[str], None]) -> None:
        """`shapes` are those of the model's folder by name; `on_broken` is told why nothing can be generated again."""
        self.version = 0
        self._weights = weights
        self._shapes = shapes
        self._on_broken = on_broken
        self._confirmed = asyncio.Event()
        self._confirmed.set()
        self._limit: asyncio.TimerHandle | None = None
        self._limit_at = 0.0
        self._phase: str | None = None
        """Of the update that is going on."""
        self._is_calling = False
        self._seconds: dict[str, float] = {}
        self._broken: str | None = None
        self._landing: LandingFolder | None = None
        self._folders = ExitStack()

    @property
    def is_confirmed(self) -> bool:
        """Whether what is generated may leave at once; not so from the beginning of an update on."""
        return self._confirmed.is_set()

    async def update(self, order: UpdateOrder, content: memoryview | None) -> UpdateReport:
        """Take a file, or a content that becomes one first; to be confirmed.

        Names and shapes are compared with the model's before vLLM is touched: a file that does not fit breaks nothing.
        Raises WeightSyncFailed.
        """
        limit = asyncio.get_running_loop().time() + order.deadline_s
        if content is None:
            return await self._update_from(order, order.path, limit)
        folder = self._landing or self._open_landing(order.landing)
        path = await asyncio.to_thread(_land, folder, order.path, content)
        try:
            return await self._update_from(order, path, limit)
        finally:
            await asyncio.to_thread(folder.release, path)

    async def begin(self, deadline_s: float) -> None:
        """Pause, and bring vLLM into the state in which it takes weights. Raises WeightSyncFailed."""
        if self._phase is not None or self._broken is not None:
            raise WeightSyncFailed(self._broken or f"an update is going on already, in phase {self._phase!r}")
        self._seconds = {}
        self._confirmed.clear()
        self._set_limit(deadline_s)
        await self._run("pause", self._weights.pause())
        await self._run("start", self._weights.start())

    async def receive(self, payload: Mapping[str, Any]) -> None:
        """One payload, of which an update may have several. Raises WeightSyncFailed."""
        self._require_open()
        await self._run("load", self._weights.receive(payload))

    async def end(self, version: int, probe: tuple[Tokens, ...]) -> UpdateReport:
        """Make what has come policy `version`, go on, and score the probe; to be confirmed. Raises WeightSyncFailed."""
        self._require_open()
        await self._run("finish", self._weights.finish(str(version)))
        # Asked before requests go on, so that the probe is first.
        questions = await self._run("ask", self._weights.ask(probe))
        await self._run("resume", self._weights.resume())
        logprobs = await self._run("verify", self._weights.scores(questions))
        self.version, self._phase = version, None
        spent = self._seconds
        return UpdateReport(
            pause_s=spent["pause"] + spent["resume"],
            load_s=spent["start"] + spent["load"] + spent["finish"],
            verify_s=spent["ask"] + spent["verify"],
            probe_logprobs=logprobs,
        )

    def _require_open(self) -> None:
        if self._phase is None or self._broken is not None:
            raise WeightSyncFailed(self._broken or "no update has begun")

    def confirm(self, version: int) -> None:
        """The weights of the last update are right. Raises WeightSyncFailed if the engine holds others."""
        if self._broken is not None or self._phase is not None or version != self.version:
            holds = self._broken or f"it holds {self.version}" + (", and an update is going on" if self._phase else "")
            raise WeightSyncFailed(f"policy version {version} cannot be confirmed: {holds}")
        self._clear_limit()
        self._confirmed.set()

    async def until_confirmed(self) -> None:
        """Wait until what is generated under the present weights may leave; not for ever, since an update does not."""
        await self._confirmed.wait()

    def close(self) -> None:
        """Nothing may follow."""
        self._clear_limit()
        self._folders.close()

    async def _update_from(self, order: UpdateOrder, path: str, limit: float) -> UpdateReport:
        require_fit(Path(path), order.manifest.num_bytes, self._shapes)
        await self.begin(limit - asyncio.get_running_loop().time())
        digests = order.manifest.digests
        await self.receive({"path": path, "with_digests": digests is not None, "digests": digests})
        return await self.end(order.version, order.probe)

    async def _run(self, phase: str, call: Awaitable[Result]) -> Result:
        """One call of the update; if it fails in any way, the engine is broken."""
        began, self._phase, self._is_calling = time.monotonic(), phase, True
        try:
            async with asyncio.timeout_at(self._limit_at):
                result = await call
        except BaseException as error:
            why = "it was not done in time" if isinstance(error, TimeoutError) else f"{error}" or repr(error)
            self._break(why)
            # vLLM reports a worker's failure as a bare Exception, so there is no narrower class to catch.
            if isinstance(error, Exception):
                raise WeightSyncFailed(f"vLLM did not take the weights: in phase {phase!r} {why}") from error
            raise
        finally:
            self._is_calling = False
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.monotonic() - began
        return result

    def _open_landing(self, name: str) -> LandingFolder:
        self._landing = self._folders.enter_context(landing_folder(name))
        return self._landing

    def _set_limit(self, deadline_s: float) -> None:
        self._clear_limit()
        loop = asyncio.get_running_loop()
        self._limit_at = loop.time() + max(0.0, deadline_s)
        self._limit = loop.call_at(self._limit_at, self._expire)

    def _expire(self) -> None:
        # A call that is under way ends at the same moment, and says which one it was.
        if not self._is_calling:
            self._break("nobody ended or confirmed it in time")

    def _clear_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = None

    def _break(self, why: str) -> None:
        self._clear_limit()
        if self._broken is None:
            where = f"in phase {self._phase!r}" if self._phase else "before it was confirmed"
            self._broken = f"an update of the weights, after policy version {self.version}, failed {where}: {why}"
            logger.error("weights broken", extra={"why": self._broken})
            self._on_broken(self._broken)


def _land(folder: LandingFolder, name: str, content: memoryview) -> str:
    try:
        return folder.land(name, content)
    except OSError as error:
        raise WeightSyncFailed(f"the weights cannot be put into {folder.folder} for vLLM to read: {error}") from error


def require_fit(path: Path, num_bytes: int, shapes: Shapes) -> None:
    """Make sure that a file is all there and made of what the model is made of. Raises WeightSyncFailed."""
    try:
        found_bytes, found = path.stat().st_size, tensor_shapes(path)
    except (OSError, ValueError) as error:
        raise WeightSyncFailed(
            f"weight file {path} cannot be read: {error}; trainer and rollout engine must share the folder, and the "
            "file must live until the update has returned"
        ) from error
    if found_bytes != num_bytes:
        raise WeightSyncFailed(
            f"weight file {path} is not the one announced: it has {found_bytes} bytes, the trainer wrote {num_bytes}"
        )
    require_shapes(found, shapes)
