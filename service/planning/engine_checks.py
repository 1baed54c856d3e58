"""What the rollout engines are asked for against the model and the stages: divided layers, idle engines. Pure."""

from collections.abc import Iterator

from service.contract.spec import ExperimentSpec
from service.planning.findings import Finding
from service.planning.model_shape import ModelShape


def find_engine_faults(spec: ExperimentSpec, shape: ModelShape | None) -> Iterator[Finding]:
    """GPUs that an engine would leave idle, and layers that vLLM cannot divide."""
    rollout = spec.resources.rollout
    if rollout.num_gpus > 1 and not rollout.num_gpus % 1 and rollout.num_gpus != rollout.tensor_parallel_size:
        yield Finding(
            field="resources.rollout.num_gpus",
            problem=f"{rollout.num_gpus:g} for each engine, which computes on tensor_parallel_size 1 of them",
            hint=f"set tensor_parallel_size {rollout.num_gpus:g}, or num_engines {rollout.num_gpus:g} with num_gpus 1",
        )
    if shape is not None and rollout.tensor_parallel_size > 1:
        yield from _indivisible(shape, rollout.tensor_parallel_size)


def _indivisible(shape: ModelShape, parts: int) -> Iterator[Finding]:
    """vLLM gives each GPU the same number of heads, and copies key-value heads where there are fewer than GPUs."""
    faults = []
    if shape.num_heads % parts:
        faults.append(f"{shape.num_heads} attention heads")
    if max(shape.num_kv_heads, parts) % min(shape.num_kv_heads, parts):
        faults.append(f"{shape.num_kv_heads} key-value heads")
    if shape.intermediate_size % parts:
        faults.append(f"feed-forward layers of width {shape.intermediate_size}")
    if faults:
        problem = f"{parts} parts do not divide the model's {', '.join(faults)}"
        hint = "choose a divisor, and num_engines to use further GPUs"
        yield Finding(field="resources.rollout.tensor_parallel_size", problem=problem, hint=hint)


def warn_of_engines(spec: ExperimentSpec) -> Iterator[str]:
    """Engines without work."""
    num_engines = spec.resources.rollout.num_engines
    num_prompts = spec.rl.num_prompts_per_step if spec.rl else num_engines
    if num_engines == 1:
        return
    if spec.rl is None and spec.evaluation is None:
        yield f"resources.rollout.num_engines is {num_engines}, but no stage samples: what they hold stands idle"
    elif num_prompts < num_engines:
        yield (
            f"resources.rollout.num_engines is {num_engines}, but rl.num_prompts_per_step gives a step only "
            f"{num_prompts} groups: {num_engines - num_prompts} engines have none"
        )
