"""A backup brings everything back, and says which files do not belong to it any more."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from service import attempts, reporting
from service.backup import BackupError, ToolsMissing, make_backup, restore_backup
from service.contract.messages import LogLine, MetricPoint
from service.scheduler.lease import acquire_lease
from service.storage.database import Sessions
from tests.databases import fresh_database, url_of
from tests.factories import NOW, make_attempt, make_report, make_stage_result

pytestmark = pytest.mark.anyio
TABLES = ("experiments", "attempts", "experiment_events", "metric_tail", "log_lines", "stage_results", "projects")


def counts(url: str) -> dict[str, int]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {table: connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in TABLES}
    engine.dispose()
    return found


@pytest.fixture
def other_url(postgres_folder: Path) -> Iterator[str]:
    """A second, empty database."""
    with fresh_database(postgres_folder) as name:
        yield url_of(postgres_folder, name)


@pytest.fixture
async def outputs(sessions: Sessions, tmp_path: Path) -> Path:
    """The files of a service in use."""
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        point = MetricPoint(name="sft/loss", step=1, value=float("nan"), ts=NOW)
        report = make_report(points=[point], log_lines=[LogLine(ts=NOW, text="hello")])
        await reporting.take_report(session, attempt, report)
        await attempts.record_stage_result(session, attempt, make_stage_result())
        await acquire_lease(session, "holder", 600)
    root = tmp_path / "outputs"
    for name in ("exp-1/models/sft/weights", "exp-1/logs/a.jsonl.gz"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(name)
    return root


async def test_a_round_trip_brings_back_every_row(
    database_url: str, other_url: str, outputs: Path, tmp_path: Path
) -> None:
    backup = make_backup(database_url, str(outputs), tmp_path / "backup", digests=True)
    assert (backup.num_experiments, backup.num_files) == (1, 2)
    restored = restore_backup(tmp_path / "backup", other_url, str(outputs), digests=True)
    assert (restored.num_experiments, restored.num_missing) == (1, 0)
    assert counts(other_url) == counts(database_url)
    engine = create_engine(other_url)
    with engine.connect() as connection:
        token = connection.scalar(text("SELECT token FROM scheduler_lease WHERE expires_at <= now()"))
    engine.dispose()
    assert token is not None and token > 1_000_000, "who scheduled before is fenced"


async def test_files_that_are_gone_or_differ_are_named(
    database_url: str, other_url: str, outputs: Path, tmp_path: Path
) -> None:
    make_backup(database_url, str(outputs), tmp_path / "backup", digests=True)
    (outputs / "exp-1/logs/a.jsonl.gz").unlink()
    weights = outputs / "exp-1/models/sft/weights"
    weights.write_text("x" * weights.stat().st_size)
    restored = restore_backup(tmp_path / "backup", other_url, str(outputs), digests=True)
    assert restored.missing == ["exp-1/logs/a.jsonl.gz", "exp-1/models/sft/weights"]


@pytest.mark.parametrize("damage", ["no manifest", "dump", "unknown format"])
async def test_a_damaged_backup_is_refused_and_nothing_is_written(
    database_url: str, other_url: str, outputs: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "backup"
    make_backup(database_url, str(outputs), folder)
    match damage:
        case "no manifest":
            (folder / "backup.json").unlink()
        case "dump":
            (folder / "database.dump").write_bytes((folder / "database.dump").read_bytes()[:-10])
        case "unknown format":
            told = json.loads((folder / "backup.json").read_text())
            (folder / "backup.json").write_text(json.dumps(told | {"format": 9}))
    with pytest.raises(BackupError):
        restore_backup(folder, other_url, str(outputs))
    with psycopg.connect(other_url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


async def test_a_database_in_use_is_not_overwritten(database_url: str, outputs: Path, tmp_path: Path) -> None:
    make_backup(database_url, str(outputs), tmp_path / "backup")
    with pytest.raises(BackupError, match="not empty"):
        restore_backup(tmp_path / "backup", database_url, str(outputs))


async def test_a_backup_never_mixes_with_another(database_url: str, outputs: Path, tmp_path: Path) -> None:
    make_backup(database_url, str(outputs), tmp_path / "backup")
    with pytest.raises(ToolsMissing, match="not empty"):
        make_backup(database_url, str(outputs), tmp_path / "backup")
