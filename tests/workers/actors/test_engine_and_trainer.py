"""Trainer and rollout engine on the model that is easiest to get wrong: Gemma 2 with adapters.

Its scores are softly capped, every other layer sees a window only, and the engine must get the adapters merged.
Whatever one of the two computes otherwise shows in the log-probs.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import Gemma2Config

from service.contract.spec import LoraSpec, ModelSpec
from tests.workers.architectures import LAYER_TYPES, SIZES, WINDOW, make_folder_of
from tests.workers.tiny_model import make_sft_spec
from workers.actors.rollout import RolloutEngine
from workers.actors.trainer import Trainer
from workers.rollouts import GenerationRequest, Prompt, SamplingParameters
from workers.weight_sync import UpdateOrder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # vLLM's own imports trip over deprecations in torch and over its native types without a module.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CONFIG = Gemma2Config(
    **(SIZES | {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}),
    sliding_window=WINDOW,
    layer_types=LAYER_TYPES,
    query_pre_attn_scalar=32,
    attn_logit_softcapping=2.0,
    final_logit_softcapping=5.0,
)
SAMPLING = SamplingParameters(temperature=1.0, max_completion_length=4 * WINDOW)


@pytest.fixture
def environment() -> Iterator[None]:
    """vLLM leaves settings of its own in this process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


async def largest_gap(engine: RolloutEngine, trainer: Trainer) -> float:
    """Between the log-probs of the tokens that the engine samples, in nats."""
    requests = [
        GenerationRequest(
            prompt=Prompt(uid=uid, text="", token_ids=(3 + uid, 9, 11)[: 1 + uid % 3], answer=""),
            sample_index=0,
            seed=uid,
        )
        for uid in range(16)
    ]
    done = await engine.generate(requests, SAMPLING, deadline_s=200.0)
    pairs = [(list(one.prompt.token_ids), list(two.token_ids)) for one, two in zip(requests, done, strict=True)]
    ours = trainer.logprobs(pairs, temperature=1.0)
    assert max(len(one.token_ids) for one in done) > WINDOW
    gaps = [abs(a - b) for row, one in zip(ours, done, strict=True) for a, b in zip(row, one.logprobs, strict=True)]
    return max(gaps)


async def compare(model: ModelSpec, data: str, folder: Path) -> tuple[float, float]:
    """The gap before training and after it."""
    trainer = Trainer(model=model, seed=0, num_cpus=1, num_gpus=0)
    trainer.load()
    engine = RolloutEngine(model=model, seed=0, num_cpus=1.0, num_gpus=0.0)
    await engine.start(300.0)
    try:
        before = await largest_gap(engine, trainer)
        trainer.prepare_sft(make_sft_spec(data), str(folder / "sft"))
        trainer.sft_steps(max_steps=100, max_seconds=100.0)
        path = str(folder / "weights.safetensors")
        order = UpdateOrder(version=1, manifest=trainer.write_weights(path), path=path, deadline_s=120.0)
        await engine.update_weights(order)
        await engine.confirm_weights(1)
        return before, await largest_gap(engine, trainer)
    finally:
        await engine.shutdown()


@pytest.mark.usefixtures("environment")
def test_capped_and_windowed_attention_and_merged_adapters_are_the_same_on_both_sides(
    ten_pairs: str, tmp_path: Path
) -> None:
    folder = make_folder_of(CONFIG, tmp_path / "base")
    model = ModelSpec(path=str(folder), max_model_len=64, lora=LoraSpec(rank=4))
    before, after = asyncio.run(compare(model, ten_pairs, tmp_path))
    assert before < 1e-4 and after < 1e-4
