"""Settings against each other, the model and the cluster: what cannot work, and what is hardly meant. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

from service.contract.objectives import (
    AsftObjective,
    EaftObjective,
    EksftObjective,
    EntropyRegularisedObjective,
    FocalObjective,
    GemObjective,
    LabelSmoothingObjective,
    ObjectiveSpec,
    ProfitObjective,
    SedObjective,
)
from service.contract.spec import ExperimentSpec
from service.planning.findings import Finding
from service.planning.memory_plan import NO_MEMORY_KNOWN, Memory
from service.planning.model_folder import ModelFacts
from service.planning.rl_checks import warn_of_rl


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the cluster can hand out at most."""

    num_cpus: float
    num_gpus: float
    node_num_cpus: float | None = None
    """Of the machine that has most; None while that is unknown."""
    node_num_gpus: float | None = None
    memory: Memory = NO_MEMORY_KNOWN


def find_lengths_beyond(spec: ExperimentSpec, model: ModelFacts) -> Iterator[Finding]:
    """Lengths beyond the positions that the model knows."""
    limit = model.max_position_embeddings
    if limit is None:
        return
    lengths: list[tuple[str, int]] = []
    if spec.rl or spec.evaluation:
        lengths.append(("model.max_model_len", spec.model.max_model_len))
    if spec.sft:
        lengths.append(("sft.max_length", spec.sft.max_length))
    for name, length in lengths:
        if length > limit:
            problem = f"{length} tokens, but the model's max_position_embeddings is {limit}"
            yield Finding(field=name, problem=problem, hint=f"set it to {limit} or less")


def find_objective_faults(spec: ExperimentSpec, model: ModelFacts) -> Iterator[Finding]:
    """More likeliest tokens than the vocabulary has, or an SED mask that could select nothing."""
    objective = spec.sft.objective if spec.sft else None
    size = model.vocab_size
    if not isinstance(objective, SedObjective | EaftObjective) or size is None:
        return
    usual = "the paper's value is 2" if isinstance(objective, SedObjective) else "the paper's value is 20"
    if objective.top_k > size:
        problem = f"{objective.top_k}, but the model's vocabulary has {size} tokens"
        yield Finding(field="sft.objective.top_k", problem=problem, hint=usual)
    elif isinstance(objective, SedObjective) and objective.mask == "topk" and objective.top_k == size:
        problem = (
            f"{objective.top_k}, but the model's vocabulary has {size} tokens: the mass of all of them is "
            "always 1, so no token would be flexible"
        )
        yield Finding(field="sft.objective.top_k", problem=problem, hint=usual)


def find_resources_beyond(spec: ExperimentSpec, capacity: Capacity | None) -> Iterator[Finding]:
    """Demands that the cluster could not meet even if it were idle: of an actor, on one machine, and of all actors."""
    if capacity is None:
        return
    resources = spec.held_resources
    roles = {"trainer": resources.trainer, "rollout": resources.rollout}
    for role, needed in roles.items() if resources.rollout.num_engines else [("trainer", resources.trainer)]:
        for kind, wanted, everywhere, on_one in (
            ("CPUs", needed.num_cpus, capacity.num_cpus, capacity.node_num_cpus),
            ("GPUs", needed.num_gpus, capacity.num_gpus, capacity.node_num_gpus),
        ):
            field = f"resources.{role}.num_{kind.lower()}"
            if wanted > everywhere:
                yield _shortage(field, f"needs {wanted:g} {kind}, the whole cluster has {everywhere:g}")
            elif on_one is not None and wanted > on_one:
                yield _shortage(field, f"needs {wanted:g} {kind} on one machine, none has more than {on_one:g}")
    for kind, wanted, everywhere in (
        ("CPUs", resources.num_cpus, capacity.num_cpus),
        ("GPUs", resources.num_gpus, capacity.num_gpus),
    ):
        if wanted > everywhere:
            yield _shortage("resources", f"needs {wanted:g} {kind} in sum, the whole cluster has {everywhere:g}")


def _shortage(field: str, problem: str) -> Finding:
    return Finding(field=field, problem=problem, hint="ask for less, or add nodes to the cluster first")


def warn_of_settings(spec: ExperimentSpec, capacity: Capacity | None) -> Iterator[str]:
    """What is allowed but probably not meant."""
    if spec.sft:
        yield from _warn_of_objective(spec.sft.objective)
    if spec.rl:
        yield from warn_of_rl(spec.rl)
    if capacity is None:
        yield "resources: the cluster's capacity is not known at the moment, so the demand was not checked against it"


def _warn_of_objective(objective: ObjectiveSpec) -> Iterator[str]:
    """Settings at which an objective is cross entropy under another name, or learns next to nothing."""
    match objective:
        case SedObjective():
            yield from _warn_of_sed(objective)
        case GemObjective(h="linear", beta=1.0):
            yield "sft.objective.beta 1 with h 'linear' has the gradient of plain cross entropy"
        case EaftObjective(alpha=0.0):
            yield "sft.objective.alpha 0 weighs every token with 1: this is plain cross entropy"
        case ProfitObjective(threshold=0.0):
            yield "sft.objective.threshold 0 drops no token: this is plain cross entropy"
        case ProfitObjective(threshold=threshold) if threshold > 0.5:
            yield f"sft.objective.threshold {threshold:g} trains only on tokens that the model already predicts"
        case FocalObjective(gamma=0.0):
            yield "sft.objective.gamma 0: this is plain cross entropy"
        case LabelSmoothingObjective(epsilon=0.0):
            yield "sft.objective.epsilon 0: this is plain cross entropy"
        case EntropyRegularisedObjective(lambda_=0.0):
            yield "sft.objective.lambda is 0: this is plain cross entropy"
        case AsftObjective() | EksftObjective():
            yield from _warn_of_referenced(objective)


def _warn_of_referenced(objective: AsftObjective | EksftObjective) -> Iterator[str]:
    if isinstance(objective, AsftObjective):
        if objective.kl_coef == 0.0:
            yield "sft.objective.kl_coef is 0: this is dft, and no reference is loaded"
        return
    if objective.entropy_fraction == objective.kl_fraction == 0.0:
        yield "sft.objective.entropy_fraction and kl_fraction are 0: this is plain cross entropy"
    if 1.0 in (objective.entropy_fraction, objective.kl_fraction):
        yield "sft.objective: a set of all tokens leaves none for cross entropy, so no label is learned"


def _warn_of_sed(objective: SedObjective) -> Iterator[str]:
    strength = objective.lambda_
    if strength == 0:
        yield "sft.objective.lambda is 0: this is plain cross entropy"
    if strength > 1:
        # The gradient of -log p + λ(p - 1/2)² is that of -log p times 1 + λp - 2λp²; this is the root in p.
        turning = (strength + sqrt(strength**2 + 8 * strength)) / (4 * strength)
        yield (
            f"sft.objective.lambda {strength:g} is above 1: labels with a probability over {turning:.3f} get a "
            "negative weight, so training pushes them down"
        )
    if objective.mask == "none":
        return
    if objective.tau is None and objective.mask_ratio == 1:
        yield "sft.objective.mask_ratio 1 leaves every token without a penalty: this is plain cross entropy"
    if objective.tau is None and objective.mask_ratio == 0:
        yield "sft.objective.mask_ratio 0 penalises nearly every token; mask 'none' says so plainly"
    if objective.tau == 0:
        yield "sft.objective.tau 0: no top-k mass lies below it, so this is plain cross entropy"
