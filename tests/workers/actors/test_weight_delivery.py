"""Weights from a real trainer to a real vLLM engine, on every way that needs no GPU, and every alarm on the way.

One engine serves the module; its tests run in their order, and the last ones break engines.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config

from service.contract.spec import ModelSpec
from service.contract.weight_sync import WeightSyncSpec
from tests.workers.architectures import SIZES, make_folder_of
from tests.workers.fake_weight_sync import FakeCall, FakePool
from tests.workers.tiny_model import make_trainer
from workers.actors import weight_export
from workers.actors.rollout import RolloutEngine
from workers.actors.trainer import Trainer
from workers.actors.vllm_adapter import EngineFailed
from workers.rollouts import GenerationRequest, Prompt, SamplingParameters
from workers.stages.engine_roster import Member
from workers.stages.weight_probe import DEFAULT_LIMITS, Probe
from workers.stages.weight_synchroniser import WeightSynchroniser
from workers.stages.weight_transports import FileShelf, Shelf, ShelfTransport, StoreShelf
from workers.weight_sync import UpdateOrder, WeightSyncFailed, weight_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # vLLM's own imports trip over deprecations in torch and over its native types without a module.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

DEADLINE_S = 120.0
PROBE = Probe(sequences=((3, 4, 5, 6, 7), (8, 9, 10), (11, 12, 13, 14)), limit=DEFAULT_LIMITS["float32"])
SAMPLING = SamplingParameters(temperature=1.0, max_completion_length=8)


class LocalTrainer:
    """As `RemoteTrainer`, in this process."""

    def __init__(self, folder: Path) -> None:
        self.trainer: Trainer = make_trainer(folder)

    weights_deadline_s = DEADLINE_S

    def begin_write_weights(self, path: str, *, with_digests: bool) -> FakeCall:
        return FakeCall(self.trainer.write_weights(path, with_digests=with_digests))

    def begin_put_weights(self, *, with_digests: bool) -> tuple[FakeCall, Any]:
        manifest, content = self.trainer.weight_content(with_digests=with_digests)
        return FakeCall(manifest), content

    def begin_scores(self, sequences: tuple[tuple[int, ...], ...]) -> Callable[[], list[list[float]]]:
        pairs = [(list(tokens[:1]), list(tokens[1:])) for tokens in sequences]
        return lambda: self.trainer.logprobs(pairs, temperature=1.0)

    @torch.no_grad()
    def learn(self, seed: int) -> None:
        """Other weights, which prefer some tokens clearly."""
        torch.manual_seed(seed)
        for parameter in self.trainer._loaded().parameters().values():
            parameter.normal_(std=0.3)


class LocalEngine:
    """As `RemoteEngine`, in this process."""

    def __init__(self, folder: Path) -> None:
        self.number = 0
        self.loop = asyncio.Runner()
        self.engine = RolloutEngine(
            model=ModelSpec(path=str(folder), max_model_len=32), seed=0, num_cpus=1.0, num_gpus=0.0
        )
        self.loop.run(self.engine.start(300.0))
        self.spoil: Callable[[Any], Any] = lambda content: content
        """What happens to a content on its way."""

    def begin_update(self, order: UpdateOrder, content: Any = None) -> FakeCall:
        return self._run(self.engine.update_weights(order, self.spoil(content)))

    def begin_confirm(self, version: int) -> FakeCall:
        return self._run(self.engine.confirm_weights(version))

    def begin_checksums(self) -> FakeCall:
        return self._run(self.engine.weight_checksums())

    def wait(self, call: FakeCall, what: str, deadline_s: float) -> Any:
        return call.result()

    def _run(self, call: Awaitable[Any]) -> FakeCall:
        async def outcome() -> Any:
            return await call

        try:
            return FakeCall(self.loop.run(outcome()))
        except (WeightSyncFailed, EngineFailed) as error:
            return FakeCall(error)


class Lab:
    """One trainer, one engine, and a synchroniser for each way."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder_of(Qwen3Config(**(SIZES | {"head_dim": 32})), folder / "base")  # vLLM knows no 8
        self.trainer = LocalTrainer(self.folder)
        self.engine = LocalEngine(self.folder)
        self.version = 0

    @contextmanager
    def shelf(self, transport: str) -> Iterator[Shelf]:
        if transport == "object_store":
            yield StoreShelf(self.trainer, f"test-{os.getpid()}")
            return
        root = None if transport == "shared_memory" else self.folder.parent
        with weight_folder("test", root=root) as folder:
            yield FileShelf(self.trainer, folder, "", lambda member: True)

    def sync(self, transport: str = "shared_memory", **settings: Any) -> dict[str, float]:
        """The trainer's present weights as the next version, all checks on."""
        pool = FakePool(0)
        engine: Any = self.engine
        start: Any = None
        pool.ready = [Member(engine=engine, start=start, is_first=True, since_s=0.0)]
        with self.shelf(transport) as shelf:
            synchroniser = WeightSynchroniser(
                trainer=self.trainer,
                engines=pool,
                transport=ShelfTransport(shelf),
                probe=lambda: PROBE,
                settings=WeightSyncSpec(**settings),
            )
            self.version += 1
            return synchroniser(self.version)

    def sample(self) -> tuple[set[int], float]:
        """Versions of some completions, and the largest gap to what the trainer says of them."""
        prompts = [Prompt(uid=uid, text="", token_ids=(3 + uid, 4), answer="") for uid in range(8)]
        requests = [GenerationRequest(prompt=prompt, sample_index=0, seed=prompt.uid) for prompt in prompts]
        done = self.engine.loop.run(self.engine.engine.generate(requests, SAMPLING, deadline_s=DEADLINE_S))
        pairs = [(list(one.prompt.token_ids), list(two.token_ids)) for one, two in zip(requests, done, strict=True)]
        ours = self.trainer.trainer.logprobs(pairs, temperature=1.0)
        gaps = [abs(a - b) for row, one in zip(ours, done, strict=True) for a, b in zip(row, one.logprobs, strict=True)]
        return {one.policy_version for one in done}, max(gaps)

    def start_again(self) -> None:
        """An engine that is broken is replaced, here as by the pool."""
        self.close()
        self.engine = LocalEngine(self.folder)

    def close(self) -> None:
        self.engine.loop.run(self.engine.engine.shutdown())
        self.engine.loop.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The module's engine."""
    environment = dict(os.environ)
    lab = Lab(tmp_path_factory.mktemp("delivery"))
    try:
        yield lab
    finally:
        lab.close()
        os.environ.clear()
        os.environ.update(environment)


@pytest.mark.parametrize("transport", ["shared_memory", "file", "object_store", "shared_memory"])
def test_the_engine_computes_with_the_trainers_weights_whatever_the_way(lab: Lab, transport: str) -> None:
    lab.trainer.learn(seed=lab.version)
    metrics = lab.sync(transport)
    assert metrics["weight_sync/probe_logprob_abs_diff_max"] < 1e-4
    assert all(metrics[f"timing_s/weight_sync/{phase}"] > 0 for phase in ("transfer", "pause", "load", "verify"))
    versions, gap = lab.sample()
    assert versions == {lab.version} and gap < 1e-4


def test_without_learning_the_probe_stays_the_same_over_twenty_syncs(lab: Lab) -> None:
    gaps = [lab.sync()["weight_sync/probe_logprob_abs_diff_max"] for _ in range(20)]
    assert len(set(gaps)) == 1 and gaps[0] < 1e-4


def without_a_tensor(leaving: weight_export.Leaving) -> weight_export.Leaving:
    kept = {name: tensor for name, tensor in leaving.tensors.items() if "layers.1.mlp.down_proj" not in name}
    return weight_export.Leaving(tensors=kept, dtypes=leaving.dtypes)


def with_another_value(leaving: weight_export.Leaving) -> weight_export.Leaving:
    def changed(name: str, tensor: Tensor) -> Tensor:
        return tensor + 0.1 if "layers.0.self_attn.v_proj" in name else tensor

    tensors = {name: changed(name, tensor) for name, tensor in leaving.tensors.items()}
    return weight_export.Leaving(tensors=tensors, dtypes=leaving.dtypes)


def export_through(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[weight_export.Leaving], weight_export.Leaving]
) -> None:
    whole = weight_export.leaving_weights
    monkeypatch.setattr(weight_export, "leaving_weights", lambda *arguments: fault(whole(*arguments)))


@pytest.mark.parametrize("transport", ["shared_memory", "object_store"])
def test_a_tensor_that_the_sender_drops_is_noticed_before_the_engine_is_touched(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    export_through(monkeypatch, without_a_tensor)
    with pytest.raises(WeightSyncFailed, match=r"missing: model\.layers\.1\.mlp\.down_proj\.weight"):
        lab.sync(transport)
    monkeypatch.undo()
    lab.sync()
    assert lab.sample()[0] == {lab.version}


def test_a_tensor_with_other_values_is_noticed_before_any_rollout(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    export_through(monkeypatch, with_another_value)
    with pytest.raises(WeightSyncFailed, match=r"differ by up to .* nats, and 0\.01 is allowed"):
        lab.sync()
    # What is made of them stays in the engine, which breaks when its time is over.
    with pytest.raises(EngineFailed):
        lab.engine.loop.run(asyncio.wait_for(lab.engine.engine.ping(1.0), 10.0))
    monkeypatch.undo()
    lab.sync()
    assert lab.sample()[0] == {lab.version}


def test_a_bit_that_flips_on_the_way_is_found_by_a_digest(lab: Lab) -> None:
    def flip(content: Any) -> Any:
        if content is None:
            return None
        spoiled = np.array(content)
        spoiled[-1] ^= 1
        return spoiled

    lab.engine.spoil = flip
    with pytest.raises(WeightSyncFailed, match=r"arrived otherwise than the trainer sent them: model\.norm\.weight"):
        lab.sync("object_store")
    with pytest.raises(EngineFailed, match="unusable"):
        lab.sample()
    lab.start_again()
    lab.sync("object_store")
    assert lab.sample()[0] == {lab.version}
