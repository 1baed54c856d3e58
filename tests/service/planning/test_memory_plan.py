"""The memory plan of a specification, and what is said where the memory is not there."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from service.contract.memory_sizes import GPU_MEMORY_UTILIZATION, LOSS_CHUNK_BYTES
from service.contract.plan import MemoryPlan
from service.contract.spec import ExperimentSpec
from service.planning.memory_checks import find_memory_beyond, warn_of_memory
from service.planning.memory_plan import Memory, microbatch_tokens, plan_memory, trained_parameters
from service.planning.model_shape import ModelShape, model_shape
from service.planning.safetensors_headers import read_tensor_shapes
from tests.contract.test_rl_settings import make as make_rl

GIB = 2**30
QWEN = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
}


def layer_tensors(layer: int, hidden: int = 8) -> dict[str, tuple[int, ...]]:
    place = f"model.layers.{layer}"
    return {
        f"{place}.self_attn.q_proj.weight": (2 * hidden, hidden),
        f"{place}.self_attn.o_proj.weight": (hidden, 2 * hidden),
        f"{place}.input_layernorm.weight": (hidden,),
    }


def small_shape(**tensors: tuple[int, ...]) -> ModelShape:
    named = {"model.embed_tokens.weight": (50, 8), **layer_tensors(0), **layer_tensors(1), **tensors}
    config = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape = model_shape(config, named)
    assert shape is not None
    return shape


def qwen() -> ModelShape:
    """Qwen3 0.6B without its weights."""
    shape = model_shape({**QWEN, "tie_word_embeddings": True}, {})
    assert shape is not None
    return shape


def make_spec(
    *, model: dict[str, Any] | None = None, trainer: dict[str, Any] | None = None, **sft: Any
) -> ExperimentSpec:
    stage = {"data": {"path": "/d"}, "optimizer": {"learning_rate": 1e-3}, "num_epochs": 1, "batch_size": 64, **sft}
    body = {
        "name": "memory",
        "model": {"path": "/m", **(model or {})},
        "sft": stage,
        "resources": {"trainer": trainer or {}},
    }
    return ExperimentSpec.model_validate(body)


def trainer_plan(spec: ExperimentSpec, shape: ModelShape | None = None, memory: Memory | None = None) -> MemoryPlan:
    return plan_memory(spec, shape or qwen(), memory or Memory())[0]


def write_safetensors(path: Path, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_shapes_come_from_the_headers_of_all_files(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}
    write_safetensors(tmp_path / "model-1.safetensors", {"a": entry, "__metadata__": {"format": "pt"}})
    write_safetensors(tmp_path / "model-2.safetensors", {"b": {**entry, "shape": [5]}})
    assert read_tensor_shapes(tmp_path) == {"a": (3, 4), "b": (5,)}


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs", struct.pack("<Q", 4) + b"[1]!", b"\x02" + bytes(7) + b"[]"]
)
def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        read_tensor_shapes(tmp_path)


def test_parameters_are_counted_in_the_tensors_and_tied_ones_once() -> None:
    tied = small_shape()
    assert tied.num_parameters == 50 * 8 + 2 * (2 * 16 * 8 + 8)
    untied = small_shape(**{"lm_head.weight": (50, 8)})
    assert (tied.is_tied, untied.is_tied) == (True, False)
    assert untied.num_parameters == tied.num_parameters + 50 * 8


def test_without_weights_the_parameters_follow_from_the_config() -> None:
    # 596,049,920 by the model's own count, with its norms of queries and keys.
    assert qwen().num_parameters == pytest.approx(596_049_920, rel=1e-3)


def test_a_config_that_does_not_tell_the_sizes_gives_no_plan() -> None:
    assert model_shape({"vocab_size": 50}, {}) is None
    assert plan_memory(make_spec(), None, Memory()) == []


def test_adapters_are_counted_at_their_targets() -> None:
    lora = {"rank": 4, "target_modules": ["q_proj"]}
    spec = make_spec(model={"lora": lora})
    assert spec.model.lora is not None
    assert trained_parameters(small_shape(), spec.model.lora) == 2 * 4 * (16 + 8)
    everything = spec.model.lora.model_copy(update={"target_modules": "all-linear"})
    assert trained_parameters(small_shape(), everything) == 2 * 2 * 4 * (16 + 8)


@pytest.mark.parametrize(
    ("max_length", "batch_size", "num_gpus", "tokens"),
    [(512, 64, 0.0, 2048), (512, 64, 1.0, 8192), (512, 3, 0.0, 1536), (10_000, 4, 0.0, 10_000)],
)
def test_a_micro_batch_has_no_more_tokens_than_batch_and_budget_allow(
    max_length: int, batch_size: int, num_gpus: float, tokens: int
) -> None:
    spec = make_spec(max_length=max_length, batch_size=batch_size, trainer={"num_gpus": num_gpus})
    assert spec.sft is not None
    assert microbatch_tokens(spec.sft, spec.model, spec.resources.trainer) == tokens


def test_static_parts_are_sixteen_bytes_a_parameter() -> None:
    parts, size = trainer_plan(make_spec()).parts, qwen().num_parameters
    assert (parts["parameters"], parts["gradients"], parts["optimizer"]) == (4 * size, 4 * size, 8 * size)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"gradient_checkpointing": True}},
        {"max_tokens_per_microbatch": 512},
        {"model": {"lora": {}}},
        {"model": {"dtype": "bfloat16"}},
        {"trainer": {"num_ranks": 4}},
    ],
)
def test_each_remedy_makes_the_trainer_smaller(change: dict[str, Any]) -> None:
    shape = small_and_wide()
    plain = make_spec(max_length=512)
    assert trainer_plan(make_spec(max_length=512, **change), shape).total_bytes < trainer_plan(plain, shape).total_bytes


def small_and_wide() -> ModelShape:
    """Qwen3 0.6B with linear layers that adapters find."""
    layers = {f"model.layers.{index}.mlp.up_proj": (3072, 1024) for index in range(28)}
    shape = qwen()
    return ModelShape(
        **{name: getattr(shape, name) for name in ModelShape.__slots__ if name != "linear_layers"}, linear_layers=layers
    )


def test_a_reference_model_is_a_second_copy_in_the_dtype_of_the_pass() -> None:
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        spec = make_spec(model={"dtype": dtype}, objective={"type": "gift"})
        assert trainer_plan(spec).parts["reference_model"] == width * qwen().num_parameters
    for num_ranks, is_copied in ((1, False), (2, True)):
        adapted = make_spec(model={"lora": {"rank": 4}}, objective={"type": "gift"}, trainer={"num_ranks": num_ranks})
        assert ("reference_model" in trainer_plan(adapted).parts) == is_copied


def test_the_reference_of_rl_is_a_copy_of_what_is_trained_divided_among_the_ranks() -> None:
    for num_ranks in (1, 2):
        spec = make_spec(trainer={"num_ranks": num_ranks})
        rl = make_rl(beta=0.1, max_completion_length=64)
        parts = trainer_plan(spec.model_copy(update={"sft": None, "rl": rl})).parts
        assert parts["reference_weights"] == 4 * qwen().num_parameters // num_ranks


def test_adapters_that_are_off_for_the_reference_of_rl_take_no_memory() -> None:
    for kl_reference, is_held in (("start", True), ("adapters_off", False)):
        rl = make_rl(beta=0.1, kl_reference=kl_reference, max_completion_length=64)
        spec = make_spec(model={"lora": {"rank": 4}}).model_copy(update={"sft": None, "rl": rl})
        assert ("reference_weights" in trainer_plan(spec).parts) == is_held


def test_a_gradient_of_the_entropy_takes_one_more_chunk() -> None:
    plain, with_entropy = (
        trainer_plan(make_spec().model_copy(update={"sft": None, "rl": make_rl(entropy_coef=coef)})).parts["loss"]
        for coef in (0.0, 0.1)
    )
    assert with_entropy - plain == LOSS_CHUNK_BYTES


def test_ranks_share_what_stays_but_not_the_activations() -> None:
    one, two = (trainer_plan(make_spec(trainer={"num_ranks": number})).parts for number in (1, 2))
    assert two["optimizer"] == one["optimizer"] // 2
    assert two["activations"] == one["activations"]


def test_the_engine_is_planned_where_something_is_sampled() -> None:
    evaluation = {"data": {"path": "/e"}, "reward": {"type": "exact_match"}, "max_completion_length": 16}
    spec = ExperimentSpec.model_validate(make_spec().model_dump(mode="json") | {"evaluation": evaluation})
    plans = plan_memory(spec, qwen(), Memory(node_bytes=8 * GIB))
    assert [(plan.role, plan.stage, plan.device) for plan in plans] == [
        ("trainer", "sft", "cpu"),
        ("rollout", "all", "cpu"),
    ]
    assert plans[1].parts["kv_cache"] == GIB
    assert plans[1].available_bytes == 8 * GIB


def test_a_share_of_a_gpu_has_that_share_of_its_memory() -> None:
    spec = make_spec(trainer={"num_gpus": 0.5})
    plan = trainer_plan(spec, memory=Memory(node_bytes=GIB, gpu_bytes=80.0 * GIB))
    assert (plan.device, plan.available_bytes) == ("gpu", 40 * GIB)


def test_what_cannot_fit_is_refused_with_numbers_and_remedies() -> None:
    spec, memory = make_spec(max_length=512), Memory(node_bytes=8.0 * GIB, total_bytes=8.0 * GIB)
    plans = plan_memory(spec, qwen(), memory)
    [finding] = find_memory_beyond(spec, qwen(), memory, plans)
    assert finding.field == "resources.trainer"
    assert "the largest machine of the cluster has 8.0 GiB" in finding.problem
    assert "activations" in finding.problem
    for remedy in ("gradient_checkpointing: ", "max_tokens_per_microbatch 512: ", "bfloat16: ", "num_ranks 2: "):
        assert remedy in finding.hint


def test_ranks_that_fit_alone_but_not_together_are_refused() -> None:
    spec = make_spec(model={"gradient_checkpointing": True}, trainer={"num_ranks": 4})
    each = trainer_plan(spec).total_bytes
    memory = Memory(node_bytes=each * 2.0, total_bytes=each * 2.0)
    [finding] = find_memory_beyond(spec, qwen(), memory, plan_memory(spec, qwen(), memory))
    assert finding.field == "resources"
    assert "together" in finding.problem


def test_each_engine_counts_towards_the_memory_of_all_machines() -> None:
    evaluation = {"data": {"path": "/e"}, "reward": {"type": "exact_match"}, "max_completion_length": 16}
    body = make_spec().model_dump(mode="json") | {"sft": None, "evaluation": evaluation}
    spec = ExperimentSpec.model_validate(body | {"resources": {"rollout": {"num_engines": 4}}})
    each = plan_memory(spec, qwen(), Memory())[0].total_bytes
    for room, is_enough in ((4.1, True), (3.9, False)):
        memory = Memory(node_bytes=each * 2.0, total_bytes=each * room)
        found = list(find_memory_beyond(spec, qwen(), memory, plan_memory(spec, qwen(), memory)))
        assert (found == []) == is_enough
    assert "4 rollout engines need about" in found[0].problem


def test_an_engine_divides_its_weights_over_its_gpus() -> None:
    evaluation = {"data": {"path": "/e"}, "reward": {"type": "exact_match"}, "max_completion_length": 16}
    body = make_spec().model_dump(mode="json") | {"sft": None, "evaluation": evaluation}
    one, two = (
        ExperimentSpec.model_validate(
            body | {"resources": {"rollout": {"num_engines": 3, "num_gpus": size, "tensor_parallel_size": size}}}
        )
        for size in (1, 2)
    )
    parts = [plan_memory(spec, qwen(), Memory())[0].parts["parameters"] for spec in (one, two)]
    assert parts[1] == parts[0] // 2


def sharing(rollout_share: float) -> ExperimentSpec:
    body = make_spec().model_dump(mode="json")
    evaluation = {"data": {"path": "/e"}, "reward": {"type": "exact_match"}, "max_completion_length": 16}
    shares = {"trainer": {"num_gpus": 0.1}, "rollout": {"num_gpus": rollout_share}, "placement": "colocated"}
    return ExperimentSpec.model_validate(body | {"evaluation": evaluation, "resources": shares})


def test_by_turns_the_trainer_has_the_whole_gpu_and_the_engine_its_share() -> None:
    plans = plan_memory(sharing(0.5), qwen(), Memory(gpu_bytes=80.0 * GIB))
    assert [plan.available_bytes for plan in plans] == [80 * GIB, int(0.5 * GPU_MEMORY_UTILIZATION * 80 * GIB)]


def test_a_trainer_that_leaves_the_engine_no_room_to_wake_up_is_refused() -> None:
    memory = Memory(gpu_bytes=40.0 * GIB)
    for share, is_enough in ((0.5, True), (0.9, False)):
        spec = sharing(share)
        found = list(find_memory_beyond(spec, qwen(), memory, plan_memory(spec, qwen(), memory)))
        assert (found == []) == is_enough
    assert found[0].field == "resources.rollout.num_gpus" and "while the engine is awake" in found[0].problem


def test_little_room_is_warned_of() -> None:
    spec = make_spec()
    memory = Memory(node_bytes=trainer_plan(spec).total_bytes * 1.1)
    plans = plan_memory(spec, qwen(), memory)
    assert list(find_memory_beyond(spec, qwen(), memory, plans)) == []
    [warning] = warn_of_memory(plans)
    assert "91% of" in warning


def test_unknown_memory_refuses_and_warns_of_nothing() -> None:
    plans = plan_memory(make_spec(), qwen(), Memory())
    assert [plan.available_bytes for plan in plans] == [None]
    assert list(find_memory_beyond(make_spec(), qwen(), Memory(), plans)) == []
    assert list(warn_of_memory(plans)) == []
