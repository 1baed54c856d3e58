"""The `sedray` command. It talks to the service through `api.client` only, so it installs without the server."""

# Commands of their own modules.
import api.cli.data_sets
import api.cli.events_command
import api.cli.metrics_command
import api.cli.open_command
import api.cli.rollouts  # noqa: F401
from api.cli.commands import main

__all__ = ["main"]
