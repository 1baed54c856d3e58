"""The memory that each actor needs at its peak, estimated from the model's shape and the specification. Pure.

A trainer's rank is at its peak in one of three phases:

    train     parameters + gradients + optimizer + activations of one micro-batch + loss
    load      the whole model, before it is divided among the ranks
    export    parameters + optimizer + the weights as they leave, on the first rank

Trained parameters, gradients and AdamW's two averages are float32 and divided by the number of ranks (FSDP2). T tokens
go through the model at once; what autograd keeps of them for the backward pass was counted tensor by tensor on Llama
and Qwen3, in floats per token and layer (h hidden, q and kv the widths of queries and of keys, i intermediate):

    float32    4 * (6h + 2q + 2kv + 4i)                        4 * (2q + 2kv) more with norms of queries and keys
    bfloat16   26h + 4q + 4kv + 8i                             6 * (q + kv) more

Measured on the CPU (see tests/workers/actors/test_memory_plan_holds.py) the estimate lies between 5 % below and 28 %
above the peak. Rather above: a run that dies of its memory is worse than one that is asked for a smaller micro-batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

from service.contract.memory_sizes import (
    GPU_MEMORY_UTILIZATION,
    KV_CACHE_BYTES_ON_CPU,
    LOSS_CHUNK_BYTES,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQUENCES,
)
from service.contract.objectives import needs_reference_model
from service.contract.plan import MemoryPlan
from service.contract.resources import TrainerResources
from service.contract.spec import ExperimentSpec, LoraSpec, ModelSpec
from service.contract.stages import RlSpec, SftSpec
from service.planning.model_shape import ModelShape

Parts = dict[str, int]
Device = Literal["cpu", "gpu"]
Role = Literal["trainer", "rollout"]

_PROCESS_BYTES: Mapping[Device, int] = {"cpu": 350 * 2**20, "gpu": 700 * 2**20}
"""Python, torch and Ray in a trainer's rank; on a GPU the context of CUDA and the workspaces of its libraries."""
_ENGINE_PROCESS_BYTES: Mapping[Device, int] = {"cpu": 1000 * 2**20, "gpu": 1500 * 2**20}
"""Actor and engine core without weights and cache; on the CPU the two took 0.9 GiB."""
_HEAP_SHARE: Mapping[Device, float] = {"cpu": 0.65, "gpu": 0.1}
"""What the allocator holds beyond what is alive, as a share of activations and loss. glibc's heap gives back little
between micro-batches of different layouts: 0.4 to 0.9 measured."""
_LOSS_BUFFERS = 4
_FLOAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the cluster's machines have, in bytes; None where nobody knows."""

    node_bytes: float | None = None
    """Of the largest machine."""
    total_bytes: float | None = None
    """Of all machines together."""
    gpu_bytes: float | None = None
    """Of one GPU; where there are several kinds, of the largest."""


NO_MEMORY_KNOWN = Memory()


def plan_memory(spec: ExperimentSpec, shape: ModelShape | None, memory: Memory) -> list[MemoryPlan]:
    """One entry for each training stage's rank and one for each rollout engine; none without a shape."""
    if shape is None:
        return []
    plans = [
        _as_plan(spec, "trainer", stage, _peak(spec, stage_spec, shape), memory)
        for stage, stage_spec in _training(spec)
    ]
    if spec.rl or spec.evaluation:
        plans.append(_as_plan(spec, "rollout", "all", _engine_parts(spec, shape), memory))
    return plans


def microbatch_tokens(stage: SftSpec | RlSpec, model: ModelSpec, trainer: TrainerResources) -> int:
    """Tokens of the largest forward pass of a rank, padding included.

    A sequence that is longer than the budget by itself goes through alone.
    """
    if isinstance(stage, SftSpec):
        longest, num_sequences = stage.max_length, stage.batch_size
    else:
        longest, num_sequences = model.max_model_len, stage.num_sequences_per_update
    budget = stage.microbatch_tokens(on_gpu=trainer.num_gpus > 0)
    return max(longest, min(budget, longest * ceil(num_sequences / trainer.num_ranks)))


def trained_parameters(shape: ModelShape, lora: LoraSpec | None) -> int:
    """Of the model, or of its adapters."""
    if lora is None:
        return shape.num_parameters
    adapted = [size for name, size in shape.linear_layers.items() if _is_target(name, lora)]
    return sum(lora.rank * (num_out + num_in) for num_out, num_in in adapted)


def _is_target(name: str, lora: LoraSpec) -> bool:
    return lora.target_modules == "all-linear" or any(
        f".{name}".endswith(f".{target}") for target in lora.target_modules
    )


def _training(spec: ExperimentSpec) -> Iterator[tuple[str, SftSpec | RlSpec]]:
    if spec.sft:
        yield "sft", spec.sft
    if spec.rl:
        yield "rl", spec.rl


def _device(num_gpus: float) -> Device:
    return "gpu" if num_gpus > 0 else "cpu"


def _peak(spec: ExperimentSpec, stage: SftSpec | RlSpec, shape: ModelShape) -> Parts:
    phases = [_train_parts(spec, stage, shape), _load_parts(spec, shape), _export_parts(spec, shape)]
    return max(phases, key=lambda parts: sum(parts.values()))


def _train_parts(spec: ExperimentSpec, stage: SftSpec | RlSpec, shape: ModelShape) -> Parts:
    device = _device(spec.resources.trainer.num_gpus)
    tokens = microbatch_tokens(stage, spec.model, spec.resources.trainer)
    passing = {
        "activations": _activation_bytes(spec.model, shape, tokens, _longest(stage, spec.model)),
        "loss": _loss_bytes(spec.model, shape, tokens),
    }
    reference: Parts = {}
    if isinstance(stage, SftSpec) and needs_reference_model(stage.objective):
        # A pass without gradient keeps nothing but one layer's values.
        passing["loss"] += 2 * LOSS_CHUNK_BYTES + _FLOAT * tokens * shape.hidden_size
        # Beside adapters the trained model itself, its adapters off, is the reference, unless ranks share it.
        if spec.model.lora is None or spec.resources.trainer.num_ranks > 1:
            reference = {"reference_model": _width(spec.model) * shape.num_parameters}
    if isinstance(stage, RlSpec):
        if device == "cpu":
            # The file or object from which engines take the weights stays until the next one.
            reference |= {"weights_for_engines": _width(spec.model) * shape.num_parameters}
        if stage.beta and stage.kl_reference == "start":
            trained = trained_parameters(shape, spec.model.lora)
            reference |= {"reference_weights": _FLOAT * trained // spec.resources.trainer.num_ranks}
        if stage.entropy_coef:
            passing["loss"] += _chunk_bytes(shape, tokens)
    return {
        **_held_parts(spec, shape),
        "gradients": _FLOAT * trained_parameters(shape, spec.model.lora) // spec.resources.trainer.num_ranks,
        **_copies(spec, shape),
        **reference,
        **passing,
        "heap": int(_HEAP_SHARE[device] * sum(passing.values())),
    }


def _load_parts(spec: ExperimentSpec, shape: ModelShape) -> Parts:
    """Every rank loads the whole model before it keeps its part."""
    held = _held_parts(spec, shape)
    whole = held["parameters"] * spec.resources.trainer.num_ranks if spec.resources.trainer.num_ranks > 1 else 0
    return {"process": held["process"], "parameters": held["parameters"], "whole_model": whole}


def _export_parts(spec: ExperimentSpec, shape: ModelShape) -> Parts:
    """On the first rank: weights in the dtype that leaves, adapters merged into float32 before; on a machine without
    GPU also the copies that are written, and what was gathered from other ranks."""
    per_parameter = (_FLOAT if spec.model.lora else 0) + (2 if spec.model.dtype == "bfloat16" else 0)
    if _device(spec.resources.trainer.num_gpus) == "cpu":
        gathered = _FLOAT if spec.resources.trainer.num_ranks > 1 else 0
        per_parameter += _width(spec.model) + gathered
    return {**_held_parts(spec, shape), "export": per_parameter * shape.num_parameters}


def _held_parts(spec: ExperimentSpec, shape: ModelShape) -> Parts:
    """What stays from the first step to the last."""
    num_ranks = spec.resources.trainer.num_ranks
    trained = trained_parameters(shape, spec.model.lora)
    # Weights that are frozen beside adapters have the dtype of the forward pass.
    parameters = _FLOAT * shape.num_parameters
    if spec.model.lora is not None:
        parameters = _width(spec.model) * shape.num_parameters + _FLOAT * trained
    return {
        "process": _PROCESS_BYTES[_device(spec.resources.trainer.num_gpus)],
        "parameters": parameters // num_ranks,
        "optimizer": 2 * _FLOAT * trained // num_ranks,
    }


def _copies(spec: ExperimentSpec, shape: ModelShape) -> Parts:
    """Weights in another form beside the rank's own: gathered from all ranks, or rounded to bfloat16."""
    if spec.resources.trainer.num_ranks > 1:
        # The root's weights and gradients, and those of the layer at work and of the next one.
        gathered = shape.num_embedding_parameters + 2 * shape.num_layer_parameters
        return {"gathered": (_width(spec.model) + _FLOAT) * gathered}
    if spec.model.dtype == "bfloat16" and spec.model.lora is None:
        layers = 1 if spec.model.gradient_checkpointing else shape.num_layers
        return {"bfloat16_copies": 2 * (layers * shape.num_layer_parameters + shape.vocab_size * shape.hidden_size)}
    return {}


def _activation_bytes(model: ModelSpec, shape: ModelShape, tokens: int, longest: int) -> int:
    layer = _layer_bytes_per_token(model, shape)
    if shape.caps_scores:
        layer += 4 * _FLOAT * shape.num_heads * longest
    # Embeddings in, last norm, hidden states out and their gradient.
    ends = 5 * _FLOAT * shape.hidden_size
    if model.gradient_checkpointing:
        inputs = shape.num_layers * _FLOAT * shape.hidden_size
        # The layer at work is whole when its backward pass begins; otherwise the layers behind it have made room.
        gradients = _FLOAT * (4 * shape.hidden_size + 3 * shape.intermediate_size)
        return tokens * (inputs + layer + gradients + ends)
    return tokens * (shape.num_layers * layer + ends)


def _layer_bytes_per_token(model: ModelSpec, shape: ModelShape) -> int:
    """What autograd keeps of a layer; see the module's formulas. With adapters it was a seventh less."""
    h, q, kv, i = shape.hidden_size, shape.query_size, shape.kv_size, shape.intermediate_size
    norms = q + kv if shape.normalises_heads else 0
    if model.dtype == "bfloat16":
        return 26 * h + 4 * q + 4 * kv + 8 * i + 6 * norms
    return _FLOAT * (6 * h + 2 * q + 2 * kv + 4 * i + 2 * norms)


def _loss_bytes(model: ModelSpec, shape: ModelShape, tokens: int) -> int:
    """Buffers of a chunk of logits, the gradients of output layer and embeddings before they join the
    others."""
    head = 2 * _FLOAT * shape.vocab_size * shape.hidden_size if model.lora is None else 0
    return _LOSS_BUFFERS * _chunk_bytes(shape, tokens) + head


def _chunk_bytes(shape: ModelShape, tokens: int) -> int:
    """Logits of a chunk, of one token at least."""
    return max(min(LOSS_CHUNK_BYTES, _FLOAT * tokens * shape.vocab_size), _FLOAT * shape.vocab_size)


def _engine_parts(spec: ExperimentSpec, shape: ModelShape) -> Parts:
    """vLLM: weights in the specification's dtype, its cache, and the logits of a full round of requests.

    On a GPU the cache takes what is left of the engine's share; here stands what one request of full length needs.
    """
    device = _device(spec.resources.rollout.num_gpus)
    shards = spec.resources.rollout.tensor_parallel_size
    width = _width(spec.model)
    per_token = 2 * shape.num_layers * shape.kv_size * width
    cache = KV_CACHE_BYTES_ON_CPU if device == "cpu" else per_token * spec.model.max_model_len
    batched = max(MAX_NUM_BATCHED_TOKENS, spec.model.max_model_len)
    return {
        "process": _ENGINE_PROCESS_BYTES[device],
        "parameters": width * shape.num_parameters // shards,
        "kv_cache": cache // (shards if device == "gpu" else 1),
        "activations": batched * width * (4 * shape.hidden_size + 3 * shape.intermediate_size),
        "logits": 3 * _FLOAT * MAX_NUM_SEQUENCES * shape.vocab_size,
    }


def _as_plan(spec: ExperimentSpec, role: Role, stage: str, parts: Parts, memory: Memory) -> MemoryPlan:
    needed = spec.resources.trainer if role == "trainer" else spec.resources.rollout
    return MemoryPlan(
        role=role,
        stage=stage,
        parts=parts,
        total_bytes=sum(parts.values()),
        available_bytes=_available(role, _share_of_gpu(spec, role), memory),
        device=_device(needed.num_gpus),
    )


def _share_of_gpu(spec: ExperimentSpec, role: Role) -> float:
    """Of the role while it works: where two work by turns, the engine that sleeps leaves its part to the trainer."""
    resources = spec.resources
    if role == "rollout":
        return resources.rollout.num_gpus
    by_turns = resources.placement == "colocated" and resources.trainer.num_gpus > 0
    return 1.0 if by_turns else resources.trainer.num_gpus


def _available(role: Role, num_gpus: float, memory: Memory) -> int | None:
    """A role with a share of a GPU has that share of its memory; the engine leaves a part of it alone."""
    if num_gpus > 0:
        share = min(1.0, num_gpus) * (GPU_MEMORY_UTILIZATION if role == "rollout" else 1.0)
        return None if memory.gpu_bytes is None else int(share * memory.gpu_bytes)
    return None if memory.node_bytes is None else int(memory.node_bytes)


def _longest(stage: SftSpec | RlSpec, model: ModelSpec) -> int:
    return stage.max_length if isinstance(stage, SftSpec) else model.max_model_len


def _width(model: ModelSpec) -> int:
    return 2 if model.dtype == "bfloat16" else 4
