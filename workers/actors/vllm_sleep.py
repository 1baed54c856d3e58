"""How vLLM 0.32 gives its GPU to somebody else for a while; see also `vllm_adapter`.

    awake ── sleep(1) ──> asleep, weights in the host's memory ── wake ──> awake
      └───── sleep(2) ──> asleep, weights dropped ── wake_weights ──> an update ── wake_cache ──> awake

On a CPU vLLM has nothing to give back and refuses to be started for it. There a sleep stops the scheduler: its level 0.
"""

from typing import Any, Literal

SleepLevel = Literal[1, 2]
"""1: the weights are kept in the host's memory. 2: they are dropped, and new ones must come before the next request."""


class VllmSleep:
    """Of one `AsyncLLM`. Any exception of vLLM may come out of its methods."""

    def __init__(self, llm: Any, *, frees_memory: bool) -> None:
        """`frees_memory` says that vLLM was started with `enable_sleep_mode`, which needs a GPU."""
        self._llm, self._frees_memory = llm, frees_memory
        self._asleep: set[str] = set()
        self._has_dropped_weights = False

    async def sleep(self, level: SleepLevel) -> None:
        """Stop, and give memory back where there is some to give. What is in flight goes on after the wake-up."""
        if self._asleep:
            return
        await self._llm.sleep(level=level if self._frees_memory else 0, mode="keep")
        self._asleep = {"weights", "kv_cache"}
        self._has_dropped_weights = self._frees_memory and level == 2

    async def wake(self) -> None:
        """Go on with the weights as they were. Raises RuntimeError if they were dropped."""
        if self._has_dropped_weights:
            raise RuntimeError("the engine has dropped its weights, and no others have come since")
        await self.wake_weights()
        await self.wake_cache()

    async def wake_weights(self) -> None:
        """Take the memory of the weights back, to be filled by an update before anything else."""
        if "weights" in self._asleep:
            if self._frees_memory:
                await self._llm.wake_up(["weights"])
            self._asleep.discard("weights")

    async def wake_cache(self) -> None:
        """Take the memory of the cache back and go on."""
        if "kv_cache" in self._asleep:
            await self._llm.wake_up(["kv_cache"] if self._frees_memory else ["scheduling"])
            self._asleep.discard("kv_cache")
        self._has_dropped_weights = False
