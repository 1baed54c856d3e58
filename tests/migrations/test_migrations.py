"""The schema's history against a real PostgreSQL."""

from sqlalchemy import create_engine, inspect, text

from migrations import apply


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
