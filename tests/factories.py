"""Builders: valid objects with what a test does not care about filled in."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, experiments, studies
from service.contract.access import ProjectRole
from service.contract.messages import FinishReport, RunEvent, StageResult, TokenView, WorkerReport
from service.contract.plan import ExperimentPlan
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from service.contract.status import EndReason
from service.contract.studies import StudySpec
from service.storage.identifiers import new_id
from service.storage.study_tables import Study
from service.storage.tables import Attempt, Experiment, Project, User
from service.studies import PlannedDraft, StudyDraft, draft_study
from service.studies.costs import plan_study
from service.tenancy import members, users

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PLAN = ExperimentPlan(stages=[], num_cpus=2.0, num_gpus=0.0, warnings=[])


def spec_body(**changes: Any) -> dict[str, Any]:
    """A minimal specification as JSON: one SFT stage. `changes` replace top-level keys."""
    sft = {"data": {"path": "/data/sft.jsonl"}, "optimizer": {"learning_rate": 1e-3}, "num_epochs": 1, "batch_size": 8}
    return {"name": "toy", "model": {"path": "/models/toy"}, "sft": sft, **changes}


def study_body(**changes: Any) -> dict[str, Any]:
    """A study as JSON: two arms over two seeds, evaluated after SFT and after RL. `changes` replace top-level keys."""
    prompts = {"data": {"path": "/data/rl.jsonl"}, "reward": {"type": "countdown"}, "max_completion_length": 8}
    rl = {
        **prompts,
        "optimizer": {"learning_rate": 1e-4},
        "num_steps": 2,
        "num_prompts_per_step": 2,
        "num_generations": 2,
    }
    evaluation = {**prompts, "num_generations": 4, "pass_at_k": [1, 4], "points": ["after_sft", "after_rl"]}
    base = {key: value for key, value in spec_body(rl=rl, evaluation=evaluation).items() if key != "name"}
    return {
        "name": "ce-or-sed",
        "question": "Does it help?",
        "base": base,
        "arms": [{"name": "ce"}, {"name": "sed", "overrides": {"sft.objective": {"type": "sed"}}}],
        "baseline": "ce",
        "sft_seeds": [1, 2],
        **changes,
    }


async def make_study(session: AsyncSession, *, user: User | None = None, **changes: Any) -> Study:
    """A running study with its experiments queued."""
    spec = StudySpec.model_validate(study_body(**changes))
    study, _ = await studies.submit(
        session,
        user=user or await make_user(session),
        planned=planned_study(draft_study(new_id("study"), spec)),
        submitted=spec.model_dump(mode="json"),
        body_sha256="0" * 64,
        idempotency_key=None,
    )
    return study


def planned_study(draft: StudyDraft) -> PlannedDraft:
    """As if the files had been looked at."""
    plans = dict.fromkeys(draft.representatives(), PLAN)
    return PlannedDraft(draft=draft, plans=plans, plan=plan_study(draft, plans, {}, 0, None))


def make_spec(**changes: Any) -> ExperimentSpec:
    """The same as a model."""
    return ExperimentSpec.model_validate(spec_body(**changes))


async def make_user(
    session: AsyncSession,
    name: str = "ada",
    *,
    role: ProjectRole | None = ProjectRole.MAINTAINER,
    project: str = "default",
    is_admin: bool = False,
) -> User:
    """The user of this name, made at the first call, with a role in a project."""
    known = await users.find_user(session, name)
    if known is not None:
        return known
    user = await users.create(session, None, name, is_admin=is_admin)
    if role is not None:
        await members.set_role(session, None, await find_project(session, project), name, role)
    return user


async def find_project(session: AsyncSession, name: str = "default") -> Project:
    """The project of this name, which exists."""
    return (await session.scalars(select(Project).where(Project.name == name))).one()


async def make_experiment(
    session: AsyncSession, *, user: User | None = None, idempotency_key: str | None = None, **spec_changes: Any
) -> Experiment:
    """A queued experiment."""
    spec = make_spec(**spec_changes)
    made = await experiments.submit(
        session,
        user=user or await make_user(session),
        project=await find_project(session, spec.project),
        spec=spec,
        plan=PLAN.model_dump(mode="json"),
        body_sha256=spec.sha256(),
        idempotency_key=idempotency_key,
    )
    return made.experiment


async def make_attempt(
    session: AsyncSession, experiment: Experiment | None = None, *, started: bool = True, **spec_changes: Any
) -> Attempt:
    """A live attempt: of a new experiment unless one is given, running unless `started` is false."""
    attempt = await attempts.open_attempt(session, experiment or await make_experiment(session, **spec_changes), NOW)
    if not started:
        return attempt
    await attempts.mark_submitted(session, attempt, ray_session="session_1", now=NOW)
    return (await attempts.start(session, attempt)).attempt


async def experiment_of(session: AsyncSession, attempt: Attempt) -> Experiment:
    """The attempt's experiment as the database has it now."""
    statement = select(Experiment).where(Experiment.id == attempt.experiment_id)
    return (await session.scalars(statement.execution_options(populate_existing=True))).one()


def make_report(seq: int = 1, **values: Any) -> WorkerReport:
    """An otherwise empty report."""
    return WorkerReport(seq=seq, **values)


def make_token_view(step: int = 0, sample_index: int = 0, **values: Any) -> TokenView:
    """Three tokens, of which the first is the prompt's, the second flexible and the third rigid."""
    facts = {
        "stage": "sft",
        "tokens": ["a", " b", "\n"],
        "token_ids": [1, 2, 3],
        "label_probs": [None, 0.25, 0.875],
        "topk_masses": [None, 0.5, 1.0],
        "entropies": [None, 1.5, 0.25],
        "weights": [None, 1.125, 1.0],
        "top_k": 2,
        "tau": 0.75,
    }
    return TokenView.model_validate({**facts, "step": step, "sample_index": sample_index, **values})


def make_run_event(kind: str = "checkpoint_skipped", **values: Any) -> RunEvent:
    """What a driver wants a person to know."""
    return RunEvent(kind=kind, **{"ts": NOW, "message": "the newest checkpoint was damaged", **values})


def make_stage_result(stage: StageName = "sft", **values: Any) -> StageResult:
    """The result of a stage that did all of its 10 steps."""
    times = {"started_at": NOW, "finished_at": NOW, "duration_s": 1.0}
    facts = {"steps_done": 10, "steps_planned": 10, "metrics": {"sft/loss": 0.5}}
    return StageResult(stage=stage, **{**times, **facts, **values})


def make_finish(reason: EndReason = EndReason.COMPLETED, **values: Any) -> FinishReport:
    """A finish after 10 of 10 steps."""
    return FinishReport(reason=reason, **{"steps_done": 10, "steps_planned": 10, **values})
