"""`StudySpec`: what a team wants to know, stated before it is run, and the experiments that follow from it.

    base specification ──> one for each arm ──> x values of the factors ──> x SFT seeds ──> x RL seeds

Arms change the base by name. What an arm leaves alone it shares with the others, so that equal stages run once.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

from pydantic import Field, JsonValue, model_validator

from service.contract.spec import ExperimentSpec
from service.contract.stages import EvaluationPoint
from service.contract.strict_model import StrictModel

MAX_EXPERIMENTS = 10_000
_NAME = r"^[a-z0-9][a-z0-9_.+-]{0,59}$"


class StudyArm(StrictModel):
    """One of the things that are compared."""

    name: str = Field(pattern=_NAME)
    description: str = Field(default="", max_length=2000)
    overrides: dict[str, JsonValue] = {}
    """What differs from the base: dotted keys (`sft.objective`) and their whole new values. A null takes a key out:
    `sft: null` is RL without SFT, and `sft: null` with `rl: null` the untouched model."""


class PrimaryMetric(StrictModel):
    """What decides, chosen before the first run."""

    metric: str = Field(default="pass@1", pattern=r"^(pass@[1-9]\d{0,5}|avg|maj)$")
    """`pass@k`; `avg` and `maj` are over all samples of a prompt."""
    point: EvaluationPoint = "after_rl"
    """An arm without that stage is taken at its last point before."""
    set: str | None = Field(default=None, pattern=r"^[a-z0-9_-]{1,40}$")
    """Name of the evaluation set; left out: the first one."""


class StudyBudget(StrictModel):
    """When to stop adding runs; whatever is reached first."""

    max_experiments: int | None = Field(default=None, ge=1)
    max_gpu_hours: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    max_cpu_hours: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    half_width: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Half the width that the interval of every arm's difference from the baseline shall fall below."""


class StudySpec(StrictModel):
    """A comparison of arms over seeds."""

    name: str = Field(min_length=1, max_length=120)
    project: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    question: str = Field(min_length=1, max_length=2000)
    """In words: what the study shall find out."""
    base: dict[str, JsonValue]
    """An experiment's specification as one would submit it, without name, project and seeds."""
    arms: list[StudyArm] = Field(min_length=1, max_length=64)
    baseline: str
    """The arm that the others are compared with."""
    factors: dict[str, list[JsonValue]] = Field(default={}, max_length=8)
    """Dotted keys and the values that every arm takes in turn: each combination is an arm of its own."""
    sft_seeds: list[int] = Field(min_length=1, max_length=1000)
    rl_seeds: list[int] = Field(default=[], max_length=1000)
    """Further seeds of RL for each SFT seed; left out: RL has the SFT's seed."""
    primary: PrimaryMetric = PrimaryMetric()
    smallest_difference: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Of the primary metric; what would matter in practice, if it is not the difference that is seen."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Chance of any false positive among the arms."""
    budget: StudyBudget = StudyBudget()
    max_running: int | None = Field(default=None, ge=1)
    """Experiments of the study that may run at once."""

    @model_validator(mode="after")
    def _names_are_known_and_different(self) -> Self:
        names = [arm.name for arm in self.arms]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"arms {twice} stand more than once; give each arm a name of its own")
        if self.baseline not in names:
            raise ValueError(f"baseline {self.baseline!r} is no arm; the arms are {names}")
        return self

    @model_validator(mode="after")
    def _seeds_are_different(self) -> Self:
        for field, seeds in (("sft_seeds", self.sft_seeds), ("rl_seeds", self.rl_seeds)):
            if len(set(seeds)) != len(seeds):
                raise ValueError(f"{field} has a seed twice: the same run twice says nothing about chance")
            if any(not 0 <= seed < 2**31 for seed in seeds):
                raise ValueError(f"{field} must lie between 0 and 2^31 - 1")
        return self

    @model_validator(mode="after")
    def _base_leaves_to_the_study_what_is_its_own(self) -> Self:
        stated = [
            ("base", self.base),
            *((f"arm {arm.name}", arm.overrides) for arm in self.arms),
            *(("factors", {key: value}) for key, values in self.factors.items() for value in values),
        ]
        for where, values in stated:
            if taken := _studys_own(values):
                raise ValueError(
                    f"{where}: {taken} is set by the study itself; take it out (seeds go under sft_seeds and rl_seeds)"
                )
        if any(not values for values in self.factors.values()):
            raise ValueError("a factor without values leaves no experiment; give it one or take it out")
        if self.num_experiments > MAX_EXPERIMENTS:
            raise ValueError(f"{self.num_experiments} experiments are more than the {MAX_EXPERIMENTS} of a study")
        return self

    @property
    def num_experiments(self) -> int:
        """Arms x combinations of factors x seeds; fewer are planned where arms have no RL, and so no seeds of it."""
        num_combinations = 1
        for values in self.factors.values():
            num_combinations *= len(values)
        return len(self.arms) * num_combinations * len(self.sft_seeds) * max(1, len(self.rl_seeds))


def _studys_own(values: Mapping[str, JsonValue]) -> str | None:
    """The first key, dotted or in an object, that says what the study itself says of each run."""
    rl = values.get("rl")
    own = ["name", "project", "seed", "rl.seed"]
    inside = ["rl.seed"] if isinstance(rl, dict) and rl.get("seed") is not None else []
    return next(iter([*(key for key in own if key in values), *inside]), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One experiment of a study."""

    arm: str
    """With the values of the factors: `sed`, or `sed [sft.num_epochs=3]`."""
    sft_seed: int
    rl_seed: int
    body: dict[str, Any]
    """The experiment's specification as one would submit it; not validated."""

    def spec(self) -> ExperimentSpec:
        """Raises pydantic's ValidationError."""
        return ExperimentSpec.model_validate(self.body)


def planned_runs(study: StudySpec) -> Iterator[PlannedRun]:
    """Seed after seed, and the arms within a seed, so that a study that is stopped early has compared all arms.

    An arm without RL runs once for each SFT seed: further seeds of RL would give the same run again. Raises ValueError
    for an override that leads through something that is no object.
    """
    rl_seeds: list[int | None] = [*study.rl_seeds] or [None]
    arms = list(_arms(study))
    for sft_seed, (place, rl_seed) in product(study.sft_seeds, enumerate(rl_seeds)):
        for name, whole in arms:
            has_rl = whole.get("rl") is not None
            if has_rl or place == 0:
                yield _planned(study, name, whole, sft_seed, rl_seed if has_rl else None)


def num_planned_runs(study: StudySpec) -> int:
    """How many runs `planned_runs` gives, without making them. Raises ValueError as it does."""
    return sum(
        len(study.sft_seeds) * (max(1, len(study.rl_seeds)) if whole.get("rl") is not None else 1)
        for _, whole in _arms(study)
    )


def arm_names(study: StudySpec) -> list[str]:
    """All arms, each with each combination of factors, in the order of the specification."""
    return [arm_name(arm.name, values) for arm in study.arms for values in _combinations(study.factors)]


def baseline_of(study: StudySpec, name: str) -> str:
    """The arm that the arm `name` is compared with: the baseline with the same values of the factors."""
    return study.baseline + name[name.index(" [") :] if " [" in name else study.baseline


def arm_name(arm: str, values: Mapping[str, JsonValue]) -> str:
    """An arm with the values of the factors."""
    return f"{arm} [{', '.join(f'{key}={value}' for key, value in values.items())}]" if values else arm


def with_overrides(body: Mapping[str, Any], overrides: Mapping[str, JsonValue]) -> dict[str, Any]:
    """A copy in which each dotted key has its new value; null takes a key out.

    Raises ValueError where a key leads through something that is no object.
    """
    changed: dict[str, Any] = deepcopy(dict(body))
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node = _descend(changed, parents, dotted)
        if value is None:
            node.pop(last, None)
        else:
            node[last] = deepcopy(value)
    return changed


def _descend(node: dict[str, Any], parents: Sequence[str], dotted: str) -> dict[str, Any]:
    for key in parents:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ValueError(f"override {dotted!r}: {key} holds {child!r}, not an object with keys")
        node = child
    return node


def _combinations(factors: Mapping[str, Sequence[JsonValue]]) -> Iterator[dict[str, JsonValue]]:
    for values in product(*factors.values()):
        yield dict(zip(factors, values, strict=True))


def _arms(study: StudySpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each arm with each combination of factors: its name, and its experiment without seeds."""
    for arm, values in product(study.arms, _combinations(study.factors)):
        whole = with_overrides(with_overrides(study.base, arm.overrides), values)
        yield arm_name(arm.name, values), whole


def _planned(study: StudySpec, name: str, whole: Mapping[str, Any], sft_seed: int, rl_seed: int | None) -> PlannedRun:
    seeds: dict[str, JsonValue] = {"seed": sft_seed}
    if rl_seed is not None:
        seeds["rl.seed"] = rl_seed
    label = f"{study.name} / {name} / {sft_seed}" + ("" if rl_seed is None else f".{rl_seed}")
    return PlannedRun(
        arm=name,
        sft_seed=sft_seed,
        rl_seed=sft_seed if rl_seed is None else rl_seed,
        body=with_overrides(whole, {**seeds, "name": label[:120], "project": study.project}),
    )
