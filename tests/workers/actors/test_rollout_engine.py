"""The rollout engine on a real vLLM with a tiny model: log-probs, weight updates, deadlines, and nothing left behind.

One engine serves the module; its tests run in their order, and the last ones break and end it.
"""

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, Qwen3ForCausalLM

from service.contract.data import ChatSpec
from service.contract.memory_sizes import MAX_NUM_BATCHED_TOKENS
from service.contract.spec import ModelSpec
from workers.actors.rollout import RolloutEngine
from workers.actors.vllm_adapter import EngineFailed
from workers.config_error import ConfigError
from workers.rollouts import Completion, GenerationRequest, Prompt, SamplingParameters
from workers.weight_sync import UpdateOrder, UpdateReport, WeightManifest, WeightSyncFailed, tensor_shapes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # vLLM's own imports trip over deprecations in torch and over its native types without a module.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BASE = Path(__file__).parents[3] / "examples" / "countdown" / "base"
START_S = 300.0
STEP_S = 120.0
EOS = 2
TURN_END = 3
CHAT = ChatSpec(template="{% for message in messages %}{{ message.content + ' <unk> ' }}{% endfor %}")
"""Ends turns with `<unk>`."""
SAMPLING = SamplingParameters(temperature=1.0, max_completion_length=12)


OWNER = """
import asyncio, sys, psutil
from service.contract.memory_sizes import MAX_NUM_BATCHED_TOKENS
from service.contract.spec import ModelSpec
from workers.actors.rollout import RolloutEngine

async def main():
    model = ModelSpec(path=sys.argv[1], max_model_len=64)
    await RolloutEngine(model=model, seed=0, num_cpus=1.0, num_gpus=0.0).start(300.0)
    children = psutil.Process().children(recursive=True)
    print("vllm-processes", *[child.pid for child in children if "VLLM" in child.name()], flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


class Lab:
    """A started engine, the loop it lives on, and the model that it was started from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = a_model(seed=0)
        save_model(self.model, folder)
        self.loop = asyncio.Runner()
        self.engine = an_engine(folder)
        self.facts = self.loop.run(self.engine.start(START_S))

    def generate(self, requests: list[GenerationRequest], sampling: SamplingParameters = SAMPLING) -> list[Completion]:
        return self.loop.run(self.engine.generate(requests, sampling, deadline_s=STEP_S))

    def update(self, model: Qwen3ForCausalLM, version: int) -> None:
        self.take(an_order(model_tensors(model), self.folder / "update.safetensors", version))
        self.loop.run(self.engine.confirm_weights(version))

    def take(self, order: UpdateOrder) -> UpdateReport:
        return self.loop.run(self.engine.update_weights(order))


def a_model(seed: int) -> Qwen3ForCausalLM:
    """Random weights, large enough to prefer some tokens clearly."""
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(BASE)
    config.initializer_range = 0.3
    return Qwen3ForCausalLM(config).eval()


def save_model(model: Qwen3ForCausalLM, folder: Path) -> None:
    model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)


def an_engine(folder: Path) -> RolloutEngine:
    model = ModelSpec(path=str(folder), max_model_len=64)
    return RolloutEngine(model=model, seed=0, num_cpus=1.0, num_gpus=0.0, works_by_turns=True, chats=(CHAT,))


def model_tensors(model: Qwen3ForCausalLM) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}


def an_order(tensors: dict[str, torch.Tensor], path: Path, version: int) -> UpdateOrder:
    save_file(tensors, path, metadata={"format": "pt"})
    manifest = WeightManifest(num_tensors=len(tensors), num_bytes=path.stat().st_size)
    return UpdateOrder(version=version, manifest=manifest, path=str(path), deadline_s=STEP_S)


def some_requests(num_prompts: int = 8, num_samples: int = 4) -> list[GenerationRequest]:
    prompts = [
        Prompt(uid=uid, text="", token_ids=(5 + uid, 9, 11, 47, 26, 48)[uid % 3 :], answer="")
        for uid in range(num_prompts)
    ]
    return [
        GenerationRequest(prompt=prompt, sample_index=index, seed=100 * prompt.uid + index)
        for prompt in prompts
        for index in range(num_samples)
    ]


@torch.no_grad()
def importance_ratios(
    model: Qwen3ForCausalLM, requests: list[GenerationRequest], completions: list[Completion], temperature: float
) -> torch.Tensor:
    """Probability of each sampled token under plain transformers over the one that vLLM reported."""
    ratios = []
    for request, completion in zip(requests, completions, strict=True):
        prompt, tokens = request.prompt.token_ids, completion.token_ids
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1] / temperature
        ours = logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        ratios.append((ours - torch.tensor(completion.logprobs)).exp())
    return torch.cat(ratios)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The module's engine."""
    environment = dict(os.environ)
    lab = Lab(tmp_path_factory.mktemp("rollout"))
    try:
        yield lab
    finally:
        lab.loop.run(lab.engine.shutdown())
        lab.loop.close()
        os.environ.clear()
        os.environ.update(environment)


def test_engine_says_what_ends_a_completion(lab: Lab) -> None:
    assert lab.facts.eos_token_ids == (TURN_END, EOS)
    assert lab.facts.vllm_version.startswith("0.32")


def test_completions_come_in_the_order_of_the_requests(lab: Lab) -> None:
    requests = some_requests()
    completions = lab.generate(requests)
    assert [(done.prompt_uid, done.sample_index) for done in completions] == [
        (request.prompt.uid, request.sample_index) for request in requests
    ]
    assert {done.policy_version for done in completions} == {0}


def test_completions_end_with_the_end_token_or_at_the_limit(lab: Lab) -> None:
    completions = lab.generate(some_requests(num_samples=16))
    assert {done.finish_reason for done in completions} == {"stop", "length"}
    for done in completions:
        assert (done.token_ids[-1] in (TURN_END, EOS)) == (done.finish_reason == "stop")
        assert not {TURN_END, EOS} & set(done.token_ids[:-1])
        assert len(done.logprobs) == len(done.token_ids) <= SAMPLING.max_completion_length
        assert "<eos>" not in done.text


def test_seed_decides_what_is_drawn(lab: Lab) -> None:
    requests = some_requests(num_prompts=2, num_samples=8)
    first, again = lab.generate(requests), lab.generate(requests)
    assert [done.token_ids for done in first] == [done.token_ids for done in again]
    assert len({done.token_ids for done in first[:8]}) > 4


def test_prompts_beyond_one_forward_pass_are_cut_and_completed(lab: Lab) -> None:
    """A prompt of which one pass takes the first part only draws nothing in it, and the same afterwards."""
    prompts = [
        Prompt(uid=uid, text="", token_ids=(5 + uid // 40, *((5 + uid % 40,) * 49)), answer="")
        for uid in range(MAX_NUM_BATCHED_TOKENS // 50 + 40)
    ]
    requests = [GenerationRequest(prompt=prompt, sample_index=0, seed=prompt.uid) for prompt in prompts]
    whole = lab.generate(requests)
    alone = [lab.generate([request])[0] for request in requests[158:168]]
    same = [one.token_ids == other.token_ids for one, other in zip(alone, whole[158:168], strict=True)]
    assert sum(same) >= 9, "rounding may move a draw, hardly two of ten"


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_importance_ratio_against_plain_transformers_is_1(lab: Lab, temperature: float) -> None:
    requests = some_requests(num_prompts=12)
    completions = lab.generate(requests, SamplingParameters(temperature=temperature, max_completion_length=12))
    ratios = importance_ratios(lab.model, requests, completions, temperature)
    assert ratios.min() > 0.99 and ratios.max() < 1.01


def test_update_makes_the_log_probs_those_of_the_new_model(lab: Lab) -> None:
    requests, new_model = some_requests(), a_model(seed=1)
    lab.update(new_model, version=7)
    completions = lab.generate(requests)
    new_ratios = importance_ratios(new_model, requests, completions, 1.0)
    old_ratios = importance_ratios(lab.model, requests, completions, 1.0)
    assert new_ratios.min() > 0.99 and new_ratios.max() < 1.01
    assert (old_ratios - 1).abs().max() > 0.5
    assert {done.policy_version for done in completions} == {7}


def test_update_can_be_repeated(lab: Lab) -> None:
    requests = some_requests(num_prompts=3)
    for version, seed in ((8, 2), (9, 0)):
        model = a_model(seed=seed)
        lab.update(model, version)
        ratios = importance_ratios(model, requests, lab.generate(requests), 1.0)
        assert ratios.min() > 0.99 and ratios.max() < 1.01


def test_update_in_the_middle_of_completions_gives_them_two_spans_each_of_its_own_policy(lab: Lab) -> None:
    requests, old, new = some_requests(num_prompts=16, num_samples=16), a_model(seed=0), a_model(seed=4)
    sampling = SamplingParameters(temperature=1.0, max_completion_length=56)
    lab.update(old, version=9)

    async def both() -> list[Completion]:
        generating = asyncio.create_task(lab.engine.generate(requests, sampling, deadline_s=STEP_S))
        while lab.engine.num_unfinished_requests == 0:
            await asyncio.sleep(0.0)
        await asyncio.sleep(0.1)
        order = an_order(model_tensors(new), lab.folder / "during.safetensors", 10)
        await lab.engine.update_weights(order)
        while lab.engine.num_unfinished_requests:
            await asyncio.sleep(0.05)
        assert not generating.done(), "nothing leaves before the update is confirmed"
        await lab.engine.confirm_weights(10)
        return await generating

    completions = lab.loop.run(both())
    split = [(asked, done) for asked, done in zip(requests, completions, strict=True) if len(done.version_spans) > 1]
    assert split
    for asked, done in split:
        before, after = done.version_spans
        assert (before.version, before.start, after.version, after.end) == (9, 0, 10, len(done.token_ids))
        assert before.end == after.start and done.policy_version == 9
        under_old, under_new = (importance_ratios(model, [asked], [done], 1.0) for model in (old, new))
        # The first span's keys and values are computed again, so the second knows nothing of the old policy.
        ours = torch.cat((under_old[: before.end], under_new[before.end :]))
        assert ours.min() > 0.99 and ours.max() < 1.01


def test_an_engine_that_sleeps_answers_when_it_wakes_up_or_has_new_weights(lab: Lab) -> None:
    requests = some_requests(num_prompts=4)

    async def asleep() -> list[int]:
        await lab.engine.sleep(1, deadline_s=STEP_S)
        waiting = asyncio.create_task(lab.engine.generate(requests, SAMPLING, deadline_s=STEP_S))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await lab.engine.wake_up(deadline_s=STEP_S)
        first = await waiting
        await lab.engine.sleep(2, deadline_s=STEP_S)
        order = an_order(model_tensors(a_model(seed=5)), lab.folder / "asleep.safetensors", 10)
        await lab.engine.update_weights(order)
        await lab.engine.confirm_weights(10)
        second = await lab.engine.generate(requests, SAMPLING, deadline_s=STEP_S)
        return [len(first), len(second)]

    assert lab.loop.run(asleep()) == [len(requests)] * 2


def test_tensor_unknown_to_the_model_is_refused_and_the_engine_lives_on(lab: Lab) -> None:
    tensors = {**model_tensors(lab.model), "model.layers.9.ghost.weight": torch.ones(2)}
    with pytest.raises(WeightSyncFailed, match=r"model\.layers\.9\.ghost\.weight"):
        lab.take(an_order(tensors, lab.folder / "ghost.safetensors", 11))
    assert lab.generate(some_requests(num_prompts=1))[0].policy_version == 10


def test_missed_deadline_gives_the_requests_up(lab: Lab) -> None:
    with pytest.raises(EngineFailed, match="32 completions were not done"):
        lab.loop.run(lab.engine.generate(some_requests(), SAMPLING, deadline_s=0.01))
    assert lab.engine.num_unfinished_requests == 0
    lab.loop.run(lab.engine.ping(STEP_S))


def test_cancelled_call_gives_its_requests_up(lab: Lab) -> None:
    async def cancel() -> None:
        generating = asyncio.create_task(lab.engine.generate(some_requests(), SAMPLING, deadline_s=STEP_S))
        await asyncio.sleep(0.01)
        generating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await generating

    lab.loop.run(cancel())
    assert lab.engine.num_unfinished_requests == 0


def test_a_busy_engine_shows_that_it_lives_and_a_stopped_one_is_told_from_it(lab: Lab) -> None:
    requests, (core, *_) = some_requests(num_prompts=16, num_samples=32), vllm_processes()

    async def watch() -> list[Completion]:
        sampling = SamplingParameters(temperature=1.0, max_completion_length=50)
        generating = asyncio.create_task(lab.engine.generate(requests, sampling, deadline_s=STEP_S))
        await asyncio.sleep(0.05)
        await lab.engine.ping(STEP_S)
        assert not generating.done() and lab.engine.num_unfinished_requests <= len(requests)
        core.suspend()
        try:
            with pytest.raises(EngineFailed, match=r"no token of .* requests came for 1 s"):
                await asyncio.sleep(0.5)  # what it has sent before still arrives
                await lab.engine.ping(1.0)
        finally:
            core.resume()
        return await generating

    assert len(lab.loop.run(watch())) == len(requests)


def test_prompt_without_room_for_the_completion_is_a_configuration_error(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="max_model_len"):
        lab.generate(some_requests(), SamplingParameters(temperature=1.0, max_completion_length=60))


def test_checksums_follow_the_weights(lab: Lab) -> None:
    before = lab.loop.run(lab.engine.weight_checksums())
    lab.update(a_model(seed=3), version=12)
    after = lab.loop.run(lab.engine.weight_checksums())
    assert before.keys() == after.keys() and any("embed_tokens" in name for name in before)
    assert all(before[name] != after[name] for name in before if "embed_tokens" in name)


def test_layer_that_gets_no_weights_breaks_the_engine(lab: Lab) -> None:
    tensors = {name: tensor for name, tensor in model_tensors(lab.model).items() if "layers.1.mlp.down" not in name}
    order = an_order(tensors, lab.folder / "short.safetensors", 13)
    # The check before the update would refuse the file; this one reaches the check inside vLLM.
    assert lab.engine._weights is not None
    lab.engine._weights._shapes = tensor_shapes(Path(order.path))
    with pytest.raises(WeightSyncFailed, match=r"layers\.1\.mlp\.down_proj"):
        lab.take(order)
    with pytest.raises(EngineFailed, match="unusable"):
        lab.generate(some_requests(num_prompts=1))


def test_shutdown_leaves_no_process(lab: Lab) -> None:
    processes = vllm_processes()
    assert processes
    lab.loop.run(lab.engine.shutdown())
    assert not any(process.is_running() for process in processes) and vllm_processes() == []
    with pytest.raises(EngineFailed):
        lab.generate(some_requests(num_prompts=1))


# vLLM leaves sockets open in a client that never got ready.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_start_beyond_its_deadline_fails_and_leaves_no_process(tmp_path: Path) -> None:
    save_model(a_model(seed=0), tmp_path)
    with pytest.raises(EngineFailed, match="not ready after 3 s"):
        asyncio.run(an_engine(tmp_path).start(3.0))
    assert vllm_processes() == []


def test_engine_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    save_model(a_model(seed=0), tmp_path)
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        line = next(line for line in owner.stdout if line.startswith("vllm-processes"))
        processes = [psutil.Process(int(pid)) for pid in line.split()[1:]]
        owner.kill()
    assert processes
    assert psutil.wait_procs(processes, timeout=30.0)[1] == []


@pytest.mark.parametrize("error", [EngineFailed("why"), WeightSyncFailed("why")])
def test_errors_travel_between_processes(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == "why"


def vllm_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "VLLM" in child.name().upper()]
