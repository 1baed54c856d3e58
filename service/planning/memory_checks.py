"""Whether the planned memory is there, and what would make it fit. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from service.contract.plan import MemoryPlan
from service.contract.spec import ExperimentSpec, LoraSpec
from service.planning.findings import Finding
from service.planning.memory_plan import Memory, plan_memory
from service.planning.model_shape import ModelShape

_NEAR = 0.85
"""A share of what is there beyond which the estimate's error counts."""
_SHOWN_PARTS = 4
_RESTING = ("process", "parameters", "optimizer", "reference_model", "reference_weights")
"""Parts of a trainer's memory that stay between its steps."""


def find_memory_beyond(
    spec: ExperimentSpec, shape: ModelShape | None, memory: Memory, plans: Sequence[MemoryPlan]
) -> Iterator[Finding]:
    """Actors that fit on no machine or GPU, and actors that together need more than all machines have."""
    too_large = [plan for plan in plans if plan.available_bytes is not None and plan.total_bytes > plan.available_bytes]
    for plan in too_large:
        yield Finding(
            field=f"resources.{plan.role}",
            problem=f"{_described(plan)}, {_place(plan)} has {_gib(plan.available_bytes or 0)}",
            hint=_remedies(spec, shape, plan),
        )
    yield from _resting_beyond(spec, memory, plans)
    whole = _machine_bytes(spec, plans)
    if not too_large and memory.total_bytes is not None and whole > memory.total_bytes:
        problem = (
            f"{_actors(spec)} need about {_gib(whole)} of memory together, the whole cluster has "
            f"{_gib(int(memory.total_bytes))}"
        )
        largest = max((plan for plan in plans if plan.device == "cpu"), key=lambda plan: plan.total_bytes)
        yield Finding(field="resources", problem=problem, hint=_remedies(spec, shape, largest))


def _resting_beyond(spec: ExperimentSpec, memory: Memory, plans: Sequence[MemoryPlan]) -> Iterator[Finding]:
    """A trainer that keeps so much while it waits that the engine beside it cannot wake up."""
    share = spec.resources.rollout.num_gpus if any(plan.role == "rollout" for plan in plans) else 0.0
    if spec.resources.placement == "disaggregated" or not share or memory.gpu_bytes is None:
        return
    resting = max(
        (sum(plan.parts.get(name, 0) for name in _RESTING) for plan in plans if plan.role == "trainer"), default=0
    )
    left = int((1.0 - share) * memory.gpu_bytes)
    if resting > left:
        yield Finding(
            field="resources.rollout.num_gpus",
            problem=f"{share:g} of a GPU for the engine leaves the trainer {_gib(left)}, and it keeps {_gib(resting)} "
            "while the engine is awake",
            hint="give the engine a smaller share, or each of the two a GPU: placement 'disaggregated'",
        )


def warn_of_memory(plans: Sequence[MemoryPlan]) -> Iterator[str]:
    """Actors that fit only if the estimate is right."""
    for plan in plans:
        if plan.available_bytes is not None and _NEAR * plan.available_bytes < plan.total_bytes <= plan.available_bytes:
            yield (
                f"resources.{plan.role}: {_described(plan)}, which is {plan.total_bytes / plan.available_bytes:.0%} of "
                f"the {_gib(plan.available_bytes)} that {_place(plan)} has: it may run out of memory"
            )


def _machine_bytes(spec: ExperimentSpec, plans: Sequence[MemoryPlan]) -> int:
    """Of all actors at once, at the peak of each, as far as they take a machine's own memory."""
    trainer = max((plan.total_bytes for plan in plans if plan.role == "trainer" and plan.device == "cpu"), default=0)
    engine = sum(plan.total_bytes for plan in plans if plan.role == "rollout" and plan.device == "cpu")
    return spec.resources.trainer.num_ranks * trainer + spec.resources.rollout.num_engines * engine


def _actors(spec: ExperimentSpec) -> str:
    num_ranks, num_engines = spec.resources.trainer.num_ranks, spec.resources.rollout.num_engines
    ranks = "1 trainer rank" if num_ranks == 1 else f"{num_ranks} trainer ranks"
    return f"{ranks} and {num_engines} rollout engine{'' if num_engines == 1 else 's'}"


def _described(plan: MemoryPlan) -> str:
    """The sum and its largest parts."""
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:_SHOWN_PARTS]
    parts = ", ".join(f"{name} {_gib(num_bytes)}" for name, num_bytes in largest)
    who = "each trainer rank" if plan.role == "trainer" else "each rollout engine"
    during = f" during {plan.stage}" if plan.role == "trainer" else ""
    return f"{who} needs about {_gib(plan.total_bytes)}{during} ({parts})"


def _place(plan: MemoryPlan) -> str:
    return "the largest machine of the cluster" if plan.device == "cpu" else "its share of a GPU"


def _remedies(spec: ExperimentSpec, shape: ModelShape | None, plan: MemoryPlan) -> str:
    """Each change that would help, with what would be needed then; what helps most comes first."""
    helping: list[tuple[int, str]] = []
    for words, changed in _changes(spec, plan):
        planned = plan_memory(changed, shape, Memory())
        total = next(other.total_bytes for other in planned if (other.role, other.stage) == (plan.role, plan.stage))
        if total < 0.98 * plan.total_bytes:
            helping.append((total, f"{words}: {_gib(total)}"))
    if not helping:
        return "use a machine with more memory, or a smaller model"
    return f"what would be needed with one change: {'; '.join(words for _, words in sorted(helping))}"


def _changes(spec: ExperimentSpec, plan: MemoryPlan) -> Iterator[tuple[str, ExperimentSpec]]:
    if spec.model.dtype == "float32":
        yield "model.dtype bfloat16", _changed(spec, "model", dtype="bfloat16")
    if plan.role == "rollout":
        return
    if not spec.model.gradient_checkpointing:
        yield "model.gradient_checkpointing", _changed(spec, "model", gradient_checkpointing=True)
    stage = spec.sft if plan.stage == "sft" else spec.rl
    assert stage is not None, "the plan is one of the specification's stages"
    budget = stage.microbatch_tokens(on_gpu=spec.resources.trainer.num_gpus > 0) // 4
    if budget:
        words = f"{plan.stage}.max_tokens_per_microbatch {budget}"
        yield words, _changed(spec, plan.stage, max_tokens_per_microbatch=budget)
    if spec.model.lora is None:
        yield "model.lora", _changed(spec, "model", lora=LoraSpec())
    num_ranks = 2 * spec.resources.trainer.num_ranks
    trainer = spec.resources.trainer.model_copy(update={"num_ranks": num_ranks})
    yield f"resources.trainer.num_ranks {num_ranks}", _changed(spec, "resources", trainer=trainer)


def _changed(spec: ExperimentSpec, part: str, **values: Any) -> ExperimentSpec:
    return spec.model_copy(update={part: getattr(spec, part).model_copy(update=values)})


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
