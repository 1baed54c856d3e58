"""One engine's updates without vLLM: each way to fail leaves a broken engine, never a paused one that nobody ends."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from workers.actors.engine_weights import EngineWeights
from workers.weight_sync import UpdateOrder, UpdateReport, WeightManifest, WeightSyncFailed

SHAPES = {"embed.weight": (4, 2), "norm.weight": (2,)}
PROBE = ((3, 4, 5), (6, 7))
PHASES = ["pause", "start", "receive", "finish", "ask", "resume", "scores"]
"""In their order."""


class FakeWeights:
    """Notes each call; fails or hangs in one of them."""

    def __init__(self, *, fails_in: str = "", hangs_in: str = "") -> None:
        self.calls: list[str] = []
        self.payloads: list[Mapping[str, Any]] = []
        self._fails_in, self._hangs_in = fails_in, hangs_in

    async def pause(self) -> None:
        await self._do("pause")

    async def start(self) -> None:
        await self._do("start")

    async def receive(self, payload: Mapping[str, Any]) -> None:
        self.payloads.append(payload)
        await self._do("receive")

    async def finish(self, version: str) -> None:
        await self._do("finish")

    async def ask(self, sequences: tuple[tuple[int, ...], ...]) -> Any:
        await self._do("ask")
        return sequences

    async def resume(self) -> None:
        await self._do("resume")

    async def scores(self, questions: Any) -> tuple[tuple[float, ...], ...]:
        await self._do("scores")
        return tuple((-1.0,) * (len(tokens) - 1) for tokens in questions)

    async def _do(self, phase: str) -> None:
        self.calls.append(phase)
        if phase == self._fails_in:
            raise Exception("the worker said no")  # as vLLM reports it
        if phase == self._hangs_in:
            await asyncio.sleep(1000.0)


def an_order(folder: Path, **changes: Any) -> UpdateOrder:
    path = folder / "policy.safetensors"
    save_file({name: torch.ones(shape) for name, shape in SHAPES.items()}, path)
    manifest = WeightManifest(num_tensors=len(SHAPES), num_bytes=path.stat().st_size)
    fields: dict[str, Any] = {"version": 1, "manifest": manifest, "path": str(path), "probe": PROBE, "deadline_s": 10.0}
    return UpdateOrder(**(fields | changes))


def run(test: Callable[[EngineWeights, list[str]], Awaitable[Any]], vllm: FakeWeights) -> Any:
    """The test with an engine's weights, and with what their owner was told."""

    async def inside() -> Any:
        told: list[str] = []
        weights = EngineWeights(vllm, SHAPES, told.append)
        try:
            return await test(weights, told)
        finally:
            weights.close()

    return asyncio.run(inside())


def test_an_update_goes_through_all_phases_and_then_waits_to_be_confirmed(tmp_path: Path) -> None:
    vllm = FakeWeights()

    async def test(weights: EngineWeights, told: list[str]) -> UpdateReport:
        report = await weights.update(an_order(tmp_path), None)
        assert weights.version == 1 and not weights.is_confirmed
        weights.confirm(1)
        await weights.until_confirmed()
        assert told == []
        return report

    assert run(test, vllm).probe_logprobs == ((-1.0, -1.0), (-1.0,))
    assert vllm.calls == PHASES


@pytest.mark.parametrize("phase", PHASES)
def test_a_failure_in_any_phase_breaks_the_engine_and_says_why(tmp_path: Path, phase: str) -> None:
    async def test(weights: EngineWeights, told: list[str]) -> None:
        with pytest.raises(WeightSyncFailed, match="the worker said no"):
            await weights.update(an_order(tmp_path), None)
        assert len(told) == 1 and "the worker said no" in told[0]
        with pytest.raises(WeightSyncFailed, match="the worker said no"):
            await weights.update(an_order(tmp_path), None)
        assert len(told) == 1

    run(test, FakeWeights(fails_in=phase))


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_that_hangs_ends_at_the_deadline(tmp_path: Path, phase: str) -> None:
    async def test(weights: EngineWeights, told: list[str]) -> None:
        with pytest.raises(WeightSyncFailed, match="not done in time"):
            await weights.update(an_order(tmp_path, deadline_s=0.05), None)
        assert len(told) == 1

    run(test, FakeWeights(hangs_in=phase))


def test_an_update_that_nobody_ends_breaks_the_engine() -> None:
    async def test(weights: EngineWeights, told: list[str]) -> None:
        await weights.begin(0.02)
        await asyncio.sleep(0.1)
        assert len(told) == 1 and "nobody ended or confirmed it" in told[0]
        with pytest.raises(WeightSyncFailed):
            await weights.receive({})

    run(test, FakeWeights())


def test_an_update_that_nobody_confirms_breaks_the_engine(tmp_path: Path) -> None:
    async def test(weights: EngineWeights, told: list[str]) -> None:
        await weights.update(an_order(tmp_path, deadline_s=0.3), None)
        assert told == []
        await asyncio.sleep(0.5)
        assert len(told) == 1
        with pytest.raises(WeightSyncFailed, match="cannot be confirmed"):
            weights.confirm(1)

    run(test, FakeWeights())


def test_a_confirmed_update_has_no_deadline_any_more(tmp_path: Path) -> None:
    async def test(weights: EngineWeights, told: list[str]) -> None:
        await weights.update(an_order(tmp_path, deadline_s=0.3), None)
        weights.confirm(1)
        await asyncio.sleep(0.5)
        assert told == []

    run(test, FakeWeights())


def test_another_version_than_the_one_it_holds_cannot_be_confirmed(tmp_path: Path) -> None:
    async def test(weights: EngineWeights, told: list[str]) -> None:
        await weights.update(an_order(tmp_path), None)
        with pytest.raises(WeightSyncFailed, match="it holds 1"):
            weights.confirm(2)

    run(test, FakeWeights())


def test_what_does_not_fit_is_refused_before_vllm_is_touched(tmp_path: Path) -> None:
    vllm, order = FakeWeights(), an_order(tmp_path)
    short = tmp_path / "short.safetensors"
    save_file({"norm.weight": torch.ones(2)}, short)
    manifest = WeightManifest(num_tensors=1, num_bytes=short.stat().st_size)

    async def test(weights: EngineWeights, told: list[str]) -> None:
        with pytest.raises(WeightSyncFailed, match="is not the one announced"):
            await weights.update(replace(order, path=str(short)), None)
        with pytest.raises(WeightSyncFailed, match=r"missing: embed\.weight"):
            await weights.update(replace(order, path=str(short), manifest=manifest), None)
        with pytest.raises(WeightSyncFailed, match="must share the folder"):
            await weights.update(replace(order, path=str(tmp_path / "nowhere")), None)
        assert told == [] and weights.is_confirmed

    run(test, vllm)
    assert vllm.calls == []


def test_a_content_becomes_a_file_for_the_length_of_the_update(tmp_path: Path) -> None:
    vllm = FakeWeights()
    order = an_order(tmp_path, landing=f"test-{tmp_path.name}")
    content = memoryview(Path(order.path).read_bytes())
    Path(order.path).unlink()

    async def test(weights: EngineWeights, told: list[str]) -> None:
        await weights.update(replace(order, path="policy-2"), content)

    run(test, vllm)
    (payload,) = vllm.payloads
    assert not Path(payload["path"]).exists() and not Path(payload["path"]).parent.exists()


def test_parts_without_a_beginning_are_refused() -> None:
    async def test(weights: EngineWeights, told: list[str]) -> None:
        with pytest.raises(WeightSyncFailed, match="no update has begun"):
            await weights.receive({})
        with pytest.raises(WeightSyncFailed, match="no update has begun"):
            await weights.end(1, ())
        await weights.begin(10.0)
        with pytest.raises(WeightSyncFailed, match="going on already"):
            await weights.begin(10.0)
        assert told == []

    run(test, FakeWeights())
