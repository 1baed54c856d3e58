"""Plans an experiment before anything is stored: looks at its files, collects every finding, derives its numbers."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from service.contract.evaluation import EvaluationSet
from service.contract.plan import ExperimentPlan
from service.contract.spec import ExperimentSpec
from service.contract.stages import RlSpec
from service.errors import CannotRun
from service.planning.chat_checks import find_missing_templates, warn_of_chats
from service.planning.data_files import DataFacts, DataQuestion, inspect_data
from service.planning.deadline import Deadline, in_thread
from service.planning.engine_checks import find_engine_faults, warn_of_engines
from service.planning.findings import Finding
from service.planning.memory_checks import find_memory_beyond, warn_of_memory
from service.planning.memory_plan import NO_MEMORY_KNOWN, plan_memory
from service.planning.model_folder import ModelFacts, inspect_model
from service.planning.numbers import num_trained_records, plan_stages
from service.planning.remembered import Remembered
from service.planning.reward_checks import warn_of_rewards
from service.planning.settings_checks import (
    Capacity,
    find_lengths_beyond,
    find_objective_faults,
    find_resources_beyond,
    warn_of_settings,
)
from service.planning.step_checks import find_steps_beyond, warn_of_steps
from service.planning.trainer_checks import find_trainer_faults, warn_of_trainer

INSPECTION_S = 20.0
_RECALL_S = 2.0
"""For the attributes of all files together; storage that needs longer is given its time file by file."""
_remembered = Remembered()

Facts = TypeVar("Facts", ModelFacts, DataFacts)


async def plan_experiment(
    spec: ExperimentSpec,
    capacity: Capacity | None,
    *,
    inspection_s: float = INSPECTION_S,
    workers_python: str = sys.executable,
) -> ExperimentPlan:
    """The derived numbers and warnings; raises CannotRun with every finding if the experiment cannot run.

    `capacity` is what the idle cluster would have, None while that is unknown. Files are read in threads of their own
    and given up after `inspection_s` seconds. Hold no session meanwhile. `workers_python` is an interpreter with the
    `preview` extra, which parses gold answers in mathematics.
    """
    questions = _questions(spec, workers_python)
    known = await _known(spec.model.path, questions, Deadline.after(min(inspection_s, _RECALL_S)))
    deadline = Deadline.after(inspection_s)
    model, data = known or await asyncio.gather(
        _within(deadline, partial(_inspect_model, spec.model.path), "model.path", ModelFacts),
        _inspect_all(questions, deadline),
    )
    room = capacity.memory if capacity else NO_MEMORY_KNOWN
    memory = plan_memory(spec, model.shape, room)
    findings = [
        *model.findings,
        *(finding for facts in data.values() for finding in facts.findings),
        *find_missing_templates(spec, model.has_chat_template),
        *find_lengths_beyond(spec, model),
        *find_objective_faults(spec, model),
        *find_trainer_faults(spec, model),
        *find_engine_faults(spec, model.shape),
        *find_steps_beyond(spec, data["sft"].num_rows if spec.sft else None),
        *_too_few_prompts(spec, data),
        *find_resources_beyond(spec, capacity),
        *find_memory_beyond(spec, model.shape, room, memory),
    ]
    if findings:
        raise CannotRun(_refusal(findings), errors=[finding.as_detail() for finding in findings])
    num_rows = {name: facts.num_rows for name, facts in data.items()}
    unchecked = [warning for facts in data.values() for warning in facts.warnings]
    return ExperimentPlan(
        stages=plan_stages(spec, num_rows),
        num_cpus=spec.held_resources.num_cpus,
        num_gpus=spec.held_resources.num_gpus,
        memory=memory,
        warnings=[
            *warn_of_settings(spec, capacity),
            *warn_of_rewards(spec),
            *warn_of_trainer(spec),
            *warn_of_engines(spec),
            *warn_of_steps(spec, num_trained_records(spec.sft, num_rows.get("sft")) if spec.sft else None),
            *warn_of_memory(memory),
            *warn_of_chats(spec),
            *_warn_of_rows(spec, num_rows),
            *unchecked,
        ],
    )


async def _known(
    path: str, questions: Mapping[str, DataQuestion], deadline: Deadline
) -> tuple[ModelFacts, dict[str, DataFacts]] | None:
    """All facts, if they are all remembered: one thread looks whether the files are the same, not one for each."""

    def recall() -> tuple[ModelFacts, dict[str, DataFacts]] | None:
        model = _remembered.recall(_about_model(path), path)
        if model is None:
            return None
        data: dict[str, DataFacts] = {}
        for name, question in questions.items():
            facts = _remembered.recall(repr(question), question.data.path)
            if facts is None:
                return None
            data[name] = facts
        return model, data

    try:
        return await in_thread(recall, deadline)
    except TimeoutError:
        return None  # which of them hangs is found by looking at each


def _about_model(path: str) -> str:
    return f"model {path}"


def _inspect_model(path: str) -> ModelFacts:
    return _remembered.look(_about_model(path), path, lambda: inspect_model(path), lambda facts: not facts.findings)


def _inspect_data(question: DataQuestion, deadline: Deadline) -> DataFacts:
    def sound(facts: DataFacts) -> bool:
        return not facts.findings and facts.num_rows is not None

    return _remembered.look(repr(question), question.data.path, lambda: inspect_data(question, deadline), sound)


async def _inspect_all(questions: Mapping[str, DataQuestion], deadline: Deadline) -> dict[str, DataFacts]:
    facts = await asyncio.gather(
        *(
            _within(deadline, partial(_inspect_data, question, deadline), f"{question.where}.path", _no_rows)
            for question in questions.values()
        )
    )
    return dict(zip(questions, facts, strict=True))


def _questions(spec: ExperimentSpec, workers_python: str) -> dict[str, DataQuestion]:
    questions = {}
    if spec.sft:
        questions["sft"] = DataQuestion(where="sft.data", data=spec.sft.data)
        if spec.sft.eval_data:
            questions["sft_eval"] = DataQuestion(where="sft.eval_data", data=spec.sft.eval_data)
    asked: dict[str, RlSpec | EvaluationSet] = {"rl": spec.rl} if spec.rl else {}
    for name, stage in (asked | spec.evaluation_sets()).items():
        questions[name] = DataQuestion(
            where=f"{name}.data",
            data=stage.data,
            reward=stage.reward,
            workers_python=workers_python,
            limit=stage.num_prompts if isinstance(stage, EvaluationSet) else None,
        )
    return questions


async def _within(deadline: Deadline, inspect: Callable[[], Facts], field: str, unknown: Callable[..., Facts]) -> Facts:
    try:
        return await in_thread(inspect, deadline)
    except TimeoutError:
        hint = "check that its storage answers; for a large file, copy it to a faster place"
        finding = Finding(field=field, problem="could not be looked through in time", hint=hint)
        return unknown(findings=[finding])


def _no_rows(findings: list[Finding]) -> DataFacts:
    return DataFacts(num_rows=0, findings=findings)


def _too_few_prompts(spec: ExperimentSpec, data: Mapping[str, DataFacts]) -> list[Finding]:
    num_prompts = data["rl"].num_rows if spec.rl else 0
    if spec.rl is None or not num_prompts or num_prompts >= spec.rl.num_prompts_per_step:
        return []
    problem = f"{spec.rl.num_prompts_per_step}, but {spec.rl.data.path} holds {num_prompts} prompts"
    hint = f"set it to {num_prompts} or less, or add prompts"
    return [Finding(field="rl.num_prompts_per_step", problem=problem, hint=hint)]


def _warn_of_rows(spec: ExperimentSpec, num_rows: Mapping[str, int | None]) -> list[str]:
    return [*_warn_of_holdout(spec, num_rows.get("sft")), *_warn_of_prompts(spec, num_rows)]


def _warn_of_holdout(spec: ExperimentSpec, num_records: int | None) -> list[str]:
    share = spec.sft.holdout_fraction if spec.sft else 0.0
    if not share or num_records is None or num_records * share >= 1:
        return []
    return [
        f"sft.holdout_fraction {share:g} of {num_records} records is less than one record: if hashes hold out none, "
        "the run is refused; raise it, or give eval_data"
    ]


def _warn_of_prompts(spec: ExperimentSpec, num_rows: Mapping[str, int | None]) -> list[str]:
    return [
        f"{where}.num_prompts is {one.num_prompts}, but the set has {present} prompts: all are used"
        for where, one in spec.evaluation_sets().items()
        if one.num_prompts is not None and (present := num_rows.get(where)) is not None and present < one.num_prompts
    ]


def _refusal(findings: list[Finding]) -> str:
    first = f"{findings[0].field}: {findings[0].problem}"
    return first if len(findings) == 1 else f"{first} (and {len(findings) - 1} more findings)"
