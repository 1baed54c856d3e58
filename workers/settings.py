"""Settings of one driver process, read once in its `main` and passed down."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerSettings(BaseSettings):
    """What the scheduler tells a driver, as `SEDRAY_<NAME>` in the environment. No secret is among it."""

    model_config = SettingsConfigDict(env_prefix="SEDRAY_", frozen=True)

    attempt_id: str = Field(min_length=1)
    service_url: str = Field(pattern=r"^https?://")
    """Where this process reaches the API, without `/api/v1`."""
    token_file: Path
    """A file with the attempt's token; Ray shows environment variables to everybody who may read its dashboard."""
    work_dir: Path
    """Local scratch of this attempt: reports wait here while the service cannot be reached."""
    mirror_keys: dict[str, str] = {}
    """Variables of the workers' environment that hold keys for mirrors, and the server that may see each."""

    def token(self) -> str:
        """The attempt's token; ValueError if the file cannot be read or is empty."""
        try:
            token = self.token_file.read_text().strip()
        except OSError as error:
            raise ValueError(
                f"the token file cannot be read ({error}); the scheduler writes it before a launch"
            ) from error
        if not token:
            raise ValueError(f"the token file {self.token_file} is empty; the scheduler writes it before a launch")
        return token
