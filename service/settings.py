"""Settings of the control plane, read once in each process's `main` and passed down."""

import sys
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.contract.access import ProjectRole


class ServiceSettings(BaseSettings):
    """Shared by the API and the scheduler. Every field may be given as `SEDRAY_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="SEDRAY_", frozen=True)

    database_url: SecretStr
    """`postgresql+psycopg://…`; the only engine."""
    secret_key_file: Path
    """A file of at least 32 random bytes, readable by the service alone. Attempt tokens are derived from it."""
    output_root: str
    """Folder or fsspec URL for checkpoints and models; readable and writable by service and workers."""
    public_url: str = "http://127.0.0.1:8700"
    """Where people reach the API and the page."""
    webhook_allowed_hosts: frozenset[str] = frozenset()
    """Hosts (`host` or `host:port`) that webhooks may go to at private addresses or over plain HTTP; a JSON list."""

    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=1, le=65_535)
    """Where this process tells Prometheus its figures; without a port it tells nobody. Never the API's own port."""
    otlp_endpoint: str | None = None
    """OpenTelemetry collector for traces, such as http://collector:4318; needs the `telemetry` extra."""
    retain_logs_days: int | None = Field(default=None, ge=0)
    """Days for which the logs of an ended experiment are kept; without a number, for ever. So for the next three. A
    project may say otherwise."""
    retain_rollouts_days: int | None = Field(default=None, ge=0)
    retain_token_views_days: int | None = Field(default=None, ge=0)
    retain_checkpoints_days: int | None = Field(default=None, ge=0)
    """Exported models stay."""

    def output_dir(self, experiment_id: str) -> str:
        """The folder or URL of one experiment's outputs."""
        return f"{self.output_root.rstrip('/')}/{experiment_id}"

    def secret_key(self) -> bytes:
        """The key itself; refuses a short one."""
        key = self.secret_key_file.read_bytes()
        if len(key) < 32:
            raise ValueError(f"secret key file holds {len(key)} bytes; it needs at least 32 random bytes")
        return key


class OidcSettings(BaseSettings):
    """Log-in at the page by an OpenID Connect issuer; off without `issuer`. `SEDRAY_OIDC_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="SEDRAY_OIDC_", frozen=True)

    issuer: str | None = None
    """As it calls itself, `https://…`; its description is read from there."""
    client_id: str | None = None
    client_secret: SecretStr | None = None
    """Left out: a public client, protected by PKCE alone."""
    scopes: str = "openid profile email"
    name_claim: str = "preferred_username"
    """Names a user who logs in for the first time."""
    groups_claim: str = "groups"
    group_roles: dict[str, dict[str, ProjectRole]] = {}
    """Group to project to role, as JSON; brought up to date with each log-in."""
    label: str = "single sign-on"
    """On the log-in button."""
    session_hours: float = Field(default=12.0, gt=0, le=24 * 30)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.issuer is None:
            return self
        if not self.client_id:
            raise ValueError("an issuer needs a client: set SEDRAY_OIDC_CLIENT_ID")
        parts = urlsplit(self.issuer)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("the issuer of log-ins is reached over https://")
        return self


class ApiSettings(ServiceSettings):
    """The API process."""

    oidc: OidcSettings = Field(default_factory=OidcSettings)

    host: str = "127.0.0.1"
    port: int = 8700
    report_interval_s: float = Field(default=2.0, gt=0)
    """How often a driver reports: the pace of live metrics, of the heartbeat and of hearing a cancellation."""
    preview_python: str = sys.executable
    """An interpreter with sedray's `preview` extra, for previews of data; default: the API's own."""
    preview_timeout_s: float = Field(default=90.0, gt=0)
    ray_dashboard_public_url: str | None = None
    """Shown to people on the page; the API itself never calls Ray, unless the next two are set."""
    ray_proxy_url: str | None = None
    """Ray's dashboard, shown to admins below /ray/ of the page; read-only, and off without an address."""
    ray_proxy_token_file: Path | None = None
    """Ray's authentication token for that; sent as a bearer token, never logged."""

    @model_validator(mode="after")
    def _proxy_is_complete(self) -> Self:
        if (self.ray_proxy_url is None) != (self.ray_proxy_token_file is None):
            raise ValueError("set both SEDRAY_RAY_PROXY_URL and SEDRAY_RAY_PROXY_TOKEN_FILE, or neither")
        return self


class SchedulerSettings(ServiceSettings):
    """The scheduler process, the only one that talks to Ray."""

    ray_dashboard_url: str
    ray_token_file: Path
    """Ray's authentication token; sent as a bearer token, never logged."""
    service_url: str
    """Where the drivers reach the API from inside the cluster."""
    worker_dir: Path
    """Folder that the scheduler and the drivers share: attempt token files and the drivers' spool."""
    driver_labels: dict[str, str] = {}
    """Labels of the Ray nodes on which drivers may run, as a JSON object; without any they run on the head."""
    worker_python: str = "python"
    """The interpreter of the workers' environment on the cluster."""
    mirror_keys: dict[str, str] = {}
    """Variables of the workers' environment that hold keys for mirrors, and the server that may see each, as JSON:
    `{"WANDB_API_KEY": "https://api.wandb.ai"}`. The keys themselves stand nowhere in the service."""
    num_cpus: float | None = None
    """Upper bound of CPUs to hand out; without it, what Ray reports."""
    num_gpus: float | None = None
    tick_s: float = 1.0
    reconcile_s: float = 3.0
    upkeep_s: float = Field(default=15.0, gt=0)
    """Between two passes of housekeeping: log lines to the storage, retention."""
    studies_s: float = Field(default=5.0, gt=0)
    """Between two looks at open studies: budget, stopping rule, end."""
    figures_s: float = Field(default=10.0, gt=0)
    """Between two looks at the figures for Prometheus."""
    ray_agent_port: int = Field(default=52365, ge=1, le=65_535)
    """Of Ray's agent on each node: the scheduler makes sure that it refuses strangers."""
    ray_timeout_s: float = 15.0
    lease_ttl_s: float = 9.0
    """How long a scheduler that does not renew its lease leads on; a standby looks five times in that time."""
    start_deadline_s: float = 180.0
    """From submission to the driver's `start`."""
    heartbeat_lease_s: float = 90.0
    """Silence after which a driver that Ray calls running is taken for hung; counted only while the API was up."""
    cancel_grace_s: float = 8.0
    """Time for a driver to stop by itself before Ray is asked to stop it."""
    stop_wait_s: int = 10
    """Seconds between Ray's SIGTERM and SIGKILL to a driver."""
    usage_half_life_s: float = Field(default=7 * 86400.0, gt=0)
    """Use of the cluster counts half after so long."""
    gpu_weights: dict[str, float] = {}
    """What a GPU of a kind (Ray's name) counts in usage, as JSON; 1 unless said otherwise."""
    cpu_weight: float = Field(default=0.05, gt=0)
    """What a CPU counts in usage, where an experiment holds no GPU."""
    preempt_exempt_s: float = Field(default=1800.0, ge=0)
    """No experiment is stopped for one of a higher class so soon after its start, unless that one is urgent."""
    preempt_patience_s: float = Field(default=300.0, ge=0)
    """No experiment is stopped for one that would start within that time anyway."""
    preempt_grace_s: float = Field(default=900.0, gt=0)
    """Time for a driver to reach a checkpoint and stop, before Ray is asked to stop it."""
