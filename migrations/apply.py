"""Brings a database to a revision of the schema. Works from a checkout and from an installed wheel alike."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class MigrationSettings(BaseSettings):
    """All that a migration needs: `SEDRAY_DATABASE_URL`."""

    model_config = SettingsConfigDict(env_prefix="SEDRAY_", frozen=True)

    database_url: SecretStr
    """`postgresql+psycopg://…`"""


def upgrade(database_url: str, revision: str = "head") -> None:
    """Applies what is missing up to `revision`, all in one transaction; a database that has it is left as it is."""
    command.upgrade(_config(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Takes back everything above `revision`; `base` leaves no table."""
    command.downgrade(_config(database_url), revision)


def check(database_url: str) -> None:
    """Raises alembic.util.CommandError if the models and the migrated schema differ."""
    command.check(_config(database_url))


def head_revision() -> str:
    """The newest revision that this code knows."""
    head = ScriptDirectory.from_config(_config("")).get_current_head()
    assert head is not None, "there is an initial revision"
    return head


def _config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["database_url"] = database_url
    return config


def main() -> None:
    """Upgrades the database that the environment names."""
    upgrade(MigrationSettings().database_url.get_secret_value())


if __name__ == "__main__":
    main()
