"""The `sedray` command. It talks to the service through `api.client` only, so it installs without the server."""

import api.cli.data_sets  # a command of its own module
import api.cli.rollouts  # noqa: F401  # a command of its own module
from api.cli.commands import main

__all__ = ["main"]
