"""The `sedray` command. It talks to the service through `api.client` only, so it installs without the server."""

from api.cli.commands import main

__all__ = ["main"]
