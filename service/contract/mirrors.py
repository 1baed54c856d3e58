"""Other trackers that a run is shown in as it goes on, beside the service's own page. Off unless asked for.

A mirror works in a process of its own. It never slows a run and never fails it: what it cannot keep up with is dropped
there, counted and told of, and stays whole in the service.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from service.contract.strict_model import StrictModel

KeyVariable = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$", max_length=100)]
MIRROR_STARTED = "mirror_started"
MIRROR_BEHIND = "mirror_behind"
MIRROR_FAILED = "mirror_failed"
MIRROR_FINISHED = "mirror_finished"
"""Kinds of the events by which a driver tells of its mirrors."""


class MlflowMirror(StrictModel):
    """A run in MLflow: parameters, metrics with their steps and times, tags."""

    type: Literal["mlflow"] = "mlflow"
    tracking_uri: str | None = Field(default=None, max_length=2000)
    """Of the server, `https://…`, or a folder that the workers can write. Left out: `mirrors/mlflow` in the
    experiment's output folder."""
    experiment: str = Field(default="sedray", min_length=1, max_length=200)
    """Of MLflow's; made if there is none of that name."""
    token_env: KeyVariable | None = None
    """Name of the workers' environment variable that holds the server's token; operators allow it for its server."""

    @field_validator("tracking_uri")
    @classmethod
    def _is_a_server_or_a_folder(cls, uri: str | None) -> str | None:
        scheme = urlsplit(uri or "").scheme
        if scheme not in ("", "http", "https", "file"):
            raise ValueError(f"{uri!r} is neither an http:// or https:// address nor a folder")
        return None if uri is None else without_credentials(uri)


class WandbMirror(StrictModel):
    """A run in Weights & Biases."""

    type: Literal["wandb"] = "wandb"
    project: str = Field(default="sedray", min_length=1, max_length=128)
    entity: str | None = Field(default=None, min_length=1, max_length=128)
    """User or team; left out: that of the key."""
    mode: Literal["offline", "online"] = "offline"
    """`offline` writes files to be sent by `wandb sync` later, and needs no network and no key."""
    base_url: str = Field(default="https://api.wandb.ai", max_length=2000)
    api_key_env: KeyVariable = "WANDB_API_KEY"
    """Name of the workers' environment variable that holds the key for `online`; operators allow it for its server."""
    dir: str | None = Field(default=None, min_length=1, max_length=2000)
    """Where `offline` writes. Left out: `mirrors/wandb` in the experiment's output folder."""

    @field_validator("base_url")
    @classmethod
    def _has_no_credentials(cls, url: str) -> str:
        return without_credentials(url)


class TensorboardMirror(StrictModel):
    """Event files for TensorBoard."""

    type: Literal["tensorboard"] = "tensorboard"
    dir: str | None = Field(default=None, min_length=1, max_length=2000)
    """A folder; the experiment's id is put below it. Left out: `mirrors/tensorboard` in the experiment's output
    folder."""


MirrorSpec = Annotated[MlflowMirror | WandbMirror | TensorboardMirror, Field(discriminator="type")]


def without_credentials(url: str) -> str:
    """The address itself; refused where it holds a user or a password, which everybody would read."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("the address holds credentials, which everybody would read; name an environment variable")
    return url


def origin_of(url: str) -> str:
    """Scheme, host and port: to whom a key is shown. Empty for what is no address of a server."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{parts.hostname}:{port}"
