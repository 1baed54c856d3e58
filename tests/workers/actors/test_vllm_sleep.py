"""The order of vLLM's calls around a sleep, and that the installed vLLM has these calls."""

import asyncio
import inspect
from typing import Any

import pytest

from workers.actors.vllm_sleep import VllmSleep
from workers.actors.vllm_weights import VllmWeights


class RecordedLlm:
    """Stands for an `AsyncLLM`: notes its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.renderer = self.engine_core = self

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> None:
            self.calls.append((name, *args, *kwargs.values()))

        return call


def calls_of(steps: Any, *, frees_memory: bool) -> list[Any]:
    llm = RecordedLlm()
    sleep = VllmSleep(llm, frees_memory=frees_memory)
    asyncio.run(steps(sleep, VllmWeights(llm, sleep)))
    return llm.calls


async def update_asleep(sleep: VllmSleep, weights: VllmWeights) -> None:
    await sleep.sleep(2)
    await weights.pause()
    await weights.start()
    await weights.finish("7")
    await weights.resume()


async def nap(sleep: VllmSleep, weights: VllmWeights) -> None:
    await sleep.sleep(1)
    await sleep.sleep(2)  # it sleeps already
    await sleep.wake()
    await sleep.wake()


def test_new_weights_come_between_the_memory_of_the_old_and_that_of_the_cache() -> None:
    assert calls_of(update_asleep, frees_memory=True) == [
        ("sleep", 2, "keep"),
        ("wake_up", ["weights"]),
        ("clear_mm_cache_async",),
        ("pause_scheduler_async", "keep", True),
        ("start_weight_update",),
        ("finish_weight_update", "7"),
        ("wake_up", ["kv_cache"]),
        ("resume_generation",),
    ]


def test_who_keeps_its_weights_wakes_up_with_them() -> None:
    expected = [("sleep", 1, "keep"), ("wake_up", ["weights"]), ("wake_up", ["kv_cache"])]
    assert calls_of(nap, frees_memory=True) == expected


def test_on_a_cpu_the_scheduler_alone_stops() -> None:
    assert calls_of(nap, frees_memory=False) == [("sleep", 0, "keep"), ("wake_up", ["scheduling"])]


def test_who_dropped_its_weights_does_not_go_on_without_others() -> None:
    async def wake_too_soon(sleep: VllmSleep, weights: VllmWeights) -> None:
        await sleep.sleep(2)
        await sleep.wake()

    with pytest.raises(RuntimeError, match="dropped its weights"):
        calls_of(wake_too_soon, frees_memory=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_installed_vllm_has_these_calls() -> None:
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.executor.abstract import SLEEP_TAGS

    assert list(inspect.signature(AsyncLLM.sleep).parameters) == ["self", "level", "mode"]
    assert list(inspect.signature(AsyncLLM.wake_up).parameters) == ["self", "tags"]
    assert set(SLEEP_TAGS) == {"weights", "kv_cache"}
