"""What the trainer is asked for against the model and against itself: ranks, GPUs, adapters, packing. Pure."""

from collections.abc import Iterator

from service.contract.records import nearest
from service.contract.spec import ExperimentSpec
from service.planning.findings import Finding
from service.planning.model_folder import ModelFacts

_CAUSAL_LAYERS = {"full_attention", "sliding_attention"}
_NO_PACKING = {"bloom", "codegen", "falcon_mamba", "llama4", "llama4_text", "mamba", "mamba2", "mpt", "rwkv", "xlstm"}
"""Model types whose tokens see each other in a way that cannot be kept within a packed sequence. Not all of them: the
trainer tries every model before it packs."""


def find_trainer_faults(spec: ExperimentSpec, model: ModelFacts) -> Iterator[Finding]:
    """What cannot work."""
    yield from _gpu_faults(spec)
    yield from _adapter_faults(spec, model)
    if spec.sft and spec.sft.packing and (why := _why_not_packed(model)):
        hint = "set it to false; samples are padded then"
        yield Finding(field="sft.packing", problem=f"the model cannot keep packed samples apart: {why}", hint=hint)


def warn_of_trainer(spec: ExperimentSpec) -> Iterator[str]:
    """Ranks and GPUs that would stand idle."""
    trainer = spec.resources.trainer
    if trainer.num_gpus > 1:
        yield (
            f"resources.trainer.num_gpus is {trainer.num_gpus:g}, but a rank computes on one GPU: ask for num_ranks "
            f"{trainer.num_ranks * int(trainer.num_gpus)} with num_gpus 1"
        )
    for field, num_sequences in (
        ("sft.batch_size", spec.sft.batch_size if spec.sft else None),
        ("rl.mini_batch_size", spec.rl.num_sequences_per_update if spec.rl else None),
    ):
        if num_sequences is not None and num_sequences < trainer.num_ranks:
            yield (
                f"resources.trainer.num_ranks is {trainer.num_ranks}, but {field} gives only {num_sequences} sequences "
                f"to an update: {trainer.num_ranks - num_sequences} ranks have nothing to train"
            )


def _gpu_faults(spec: ExperimentSpec) -> Iterator[Finding]:
    for role, needed in (("trainer", spec.resources.trainer), ("rollout", spec.resources.rollout)):
        if needed.num_gpus > 1 and needed.num_gpus % 1:
            problem = f"{needed.num_gpus:g}, but Ray hands out whole GPUs above one"
            yield Finding(
                field=f"resources.{role}.num_gpus", problem=problem, hint="give a whole number, or less than 1"
            )
    trainer = spec.resources.trainer
    if trainer.num_ranks > 1 and 0 < trainer.num_gpus < 1:
        problem = f"{trainer.num_gpus:g} for each of {trainer.num_ranks} ranks, but two ranks cannot share a GPU (NCCL)"
        yield Finding(field="resources.trainer.num_gpus", problem=problem, hint="give each rank 1, or use one rank")


def _adapter_faults(spec: ExperimentSpec, model: ModelFacts) -> Iterator[Finding]:
    lora = spec.model.lora
    if lora is None or lora.target_modules == "all-linear" or model.shape is None or not model.shape.linear_layers:
        return
    layers = model.shape.linear_layers
    short_names = {name.rpartition(".")[2] for name in layers}
    for target in lora.target_modules:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            problem = f"the model has no linear layer {target!r}"
            yield Finding(field="model.lora.target_modules", problem=problem, hint=nearest(target, short_names))


def _why_not_packed(model: ModelFacts) -> str | None:
    if model.model_type in _NO_PACKING:
        return f"its type is {model.model_type}"
    if strange := sorted(set(model.layer_types) - _CAUSAL_LAYERS):
        return f"it has layers of {', '.join(strange)}"
    return None
