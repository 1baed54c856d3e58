"""The schema's history against a real PostgreSQL."""

from datetime import timedelta
from hashlib import sha256

import pytest
from sqlalchemy import create_engine, func, inspect, select, text
from sqlalchemy.exc import ProgrammingError

from migrations import apply
from service import attempts, auth, certificates, reporting
from service.contract.messages import LogLine, MetricPoint, RolloutSample, WorkerReport
from service.contract.status import EndReason
from service.retention import Policy, set_policy
from service.storage import scheduling_tables as queue
from service.storage.database import Sessions, create_sessions
from service.storage.database import create_engine as create_async
from service.storage.log_tables import LogChunkRow
from service.storage.origin_tables import ExperimentOrigin
from service.storage.processes import record_life
from service.storage.queue_entries import roles_of
from service.storage.retention_tables import RemovalRow
from service.storage.study_tables import Study, StudyAmendment
from service.storage.tables import Attempt, Base, ClusterState, Experiment, SchedulerLease
from service.webhooks import registry
from tests.factories import (
    NOW,
    experiment_of,
    find_project,
    make_attempt,
    make_experiment,
    make_report,
    make_spec,
    make_stage_result,
    make_study,
    make_token_view,
    make_user,
    spec_body,
)


def table_names(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_models_and_migrated_schema_agree(database_url: str) -> None:
    apply.check(database_url)


def test_down_and_up_again_on_an_empty_database(empty_database_url: str) -> None:
    apply.upgrade(empty_database_url)
    apply.downgrade(empty_database_url, "base")
    assert table_names(empty_database_url) == {"alembic_version"}
    apply.upgrade(empty_database_url)
    apply.check(empty_database_url)


def test_the_project_default_exists(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT name FROM projects")).all() == ["default"]
    engine.dispose()


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    before = table_names(database_url)
    apply.upgrade(database_url)
    assert table_names(database_url) == before


@pytest.mark.anyio
async def test_down_and_up_again_on_a_populated_database(database_url: str, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await reporting.take_report(session, attempt, a_full_report())
        await attempts.record_stage_result(session, attempt, make_stage_result())
        session.add(ExperimentOrigin(experiment_id=attempt.experiment_id, submitted=spec_body()))
        ada = await make_user(session)
        await auth.issue_token(session, ada, "token")
        default = await find_project(session)
        webhook = await registry.create(
            session, ada, default, name="chat", url="https://example.org", events=[], allowed_hosts=()
        )
        await registry.send_test(session, ada, default, webhook.id)
        await record_life(session, "scheduler", "one", detail={})
        session.add(ClusterState(id=1, observed_at=NOW, reachable=True, num_cpus=4, num_gpus=0, message=""))
        session.add(a_log_chunk(attempt.experiment_id))
        session.add(an_amendment(await make_study(session)))
        session.add(RemovalRow(experiment_id=attempt.experiment_id, kind="logs", removed_at=NOW))
        await set_policy(session, None, default, Policy(logs=7))
        session.add(SchedulerLease(name="scheduler", holder="h", token=1, expires_at=NOW))
        session.add_all(queue_rows(await experiment_of(session, attempt), attempt))
        await attempts.end_attempt(session, attempt, EndReason.STAGE_FAILED, "no", {})
        await certificates.issue(session, await attempts.release(session, attempt, NOW), NOW)
    assert_every_table_but_chunks_has_rows(database_url)
    apply.check(database_url)
    apply.downgrade(database_url, "base")
    assert table_names(database_url) == {"alembic_version"}
    apply.upgrade(database_url)
    apply.check(database_url)


@pytest.mark.anyio
async def test_who_had_a_token_before_there_were_roles_keeps_every_right(empty_database_url: str) -> None:
    apply.upgrade(empty_database_url, "0003")
    engine = create_async(empty_database_url)
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO users (id, name) VALUES ('user-1', 'ada')"))
        token = "INSERT INTO api_tokens (id, user_id, name, token_sha256) VALUES ('token-1', 'user-1', 'old', :digest)"
        await connection.execute(text(token), {"digest": sha256(b"sr_old").hexdigest()})
    apply.upgrade(empty_database_url)
    async with create_sessions(engine).begin() as session:
        ada = await auth.authenticate(session, "sr_old")
        assert (ada.scope, ada.role_in("project-default"), ada.is_admin) == ("admin", "maintainer", False)
    await engine.dispose()


@pytest.mark.anyio
@pytest.mark.parametrize("change", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"])
async def test_the_database_refuses_to_change_the_audit_log(sessions: Sessions, change: str) -> None:
    async with sessions.begin() as session:
        await make_user(session)
    with pytest.raises(ProgrammingError, match="takes new entries only"):
        async with sessions.begin() as session:
            await session.execute(text(change))


def an_amendment(study: Study) -> StudyAmendment:
    return StudyAmendment(
        id="amendment-1", study_id=study.id, number=1, by="ada", kind="add_seeds", change={}, reason="more"
    )


def a_full_report() -> WorkerReport:
    rollout = RolloutSample(
        stage="rl",
        step=1,
        prompt_uid=0,
        sample_index=0,
        prompt="p",
        completion="c",
        answer="a",
        reward=1.0,
        num_tokens=1,
        policy_version=0,
    )
    point = MetricPoint(name="sft/loss", step=1, value=1.0, ts=NOW)
    lines = [LogLine(ts=NOW, text="hello")]
    return make_report(points=[point], log_lines=lines, rollouts=[rollout], token_views=[make_token_view()])


def queue_rows(experiment: Experiment, attempt: Attempt) -> list[Base]:
    """One row of each of the queue's tables but `queue_entries`, which a submission writes."""
    account = {"project_id": experiment.project_id, "user_id": experiment.user_id}
    return [
        queue.AttemptHolding(attempt_id=attempt.id, bundles=[], rate=1.0, penalty=1.0, charged_until=NOW, **account),
        queue.UsageTotal(value=1.0, as_of=NOW, **account),
        queue.UsageRecord(started_at=NOW, ended_at=NOW, num_cpus=1.0, num_gpus=0.0, rate=1.0, **account),
        queue.Quota(updated_by="ada", **account),
        queue.QueuePause(scope="", drains=False, reason="", by_user="ada"),
        queue.MaintenanceWindow(
            id="window-1", starts_at=NOW, ends_at=NOW + timedelta(hours=1), reason="", by_user="ada"
        ),
        queue.QueueSnapshot(id=1, decided_at=NOW, experiment_ids=[], starts=[], facts={}),
        queue.StartForecast(experiment_id=experiment.id, made_at=NOW, predicted_at=NOW),
        queue.StageKey(
            experiment_id=experiment.id, stage="sft", project_id=experiment.project_id, settings_key="0" * 64
        ),
        queue.ContentDigest(path="/data", stamp="s", sha256="0" * 64),
        queue.OutputSize(experiment_id=experiment.id, num_bytes=1, measured_at=NOW),
    ]


@pytest.mark.anyio
async def test_experiments_of_before_get_their_rows_in_the_queue(database_url: str, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        experiment = await make_experiment(session, priority="low", resources={"trainer": {"num_ranks": 2}})
    apply.downgrade(database_url, "0005")
    apply.upgrade(database_url)
    async with sessions() as session:
        entry = await session.get_one(queue.QueueEntry, experiment.id)
    assert entry.roles == roles_of(make_spec(resources={"trainer": {"num_ranks": 2}}).resources)
    assert (entry.max_runtime_s, entry.preemptible) == (4 * 3600, True)


def a_log_chunk(experiment_id: str) -> LogChunkRow:
    facts = {"num_lines": 2, "num_bytes": 99, "sources": ["driver"], "attempt_numbers": [1]}
    return LogChunkRow(experiment_id=experiment_id, first_id=1, last_id=2, first_ts=NOW, last_ts=NOW, **facts)


def assert_every_table_but_chunks_has_rows(url: str) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        empty = {
            table.name
            for table in Base.metadata.sorted_tables
            if not connection.scalar(select(func.count()).select_from(table))
        }
    engine.dispose()
    assert empty == {"metric_chunks", "metric_levels"}
