"""Finds the service and the token: options first, then the environment, then the data folder of a local stack."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_DATA = Path(".sedray")


class NoConnection(Exception):
    """Nothing says where the service is, or the token cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where to call and as whom."""

    url: str
    token: str
    ray_dashboard_url: str | None = None


def find_connection(*, url: str | None = None, token_file: Path | None = None, data: Path | None = None) -> Connection:
    """The connection by options, `SEDRAY_URL` and `SEDRAY_TOKEN`, or `<data>/endpoint.json`; raises NoConnection."""
    url = url or (os.environ.get("SEDRAY_URL") if data is None else None)
    token = _read_token(token_file) if token_file else (os.environ.get("SEDRAY_TOKEN") if data is None else None)
    if url and token:
        return Connection(url=url, token=token)
    endpoint = read_endpoint(data or Path(os.environ.get("SEDRAY_DATA", DEFAULT_DATA)))
    if endpoint is None:
        raise NoConnection(
            "no service is known: start one with `sedray up`, or give --url and --token-file, "
            "or set SEDRAY_URL and SEDRAY_TOKEN"
        )
    return Connection(
        url=url or endpoint["url"],
        token=token or _read_token(Path(endpoint["token_file"])),
        ray_dashboard_url=endpoint.get("ray_dashboard_url"),
    )


def read_endpoint(data: Path) -> dict[str, Any] | None:
    """What a local stack says of itself, or None while none is up in this data folder.

    A stack that was killed with its guard leaves its file behind; its process tells.
    """
    try:
        endpoint: dict[str, Any] = json.loads((data / "endpoint.json").read_text())
        os.kill(endpoint["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        pass  # it lives, as another user's
    return endpoint


def _read_token(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError as error:
        raise NoConnection(f"cannot read the token file {file}: {error.strerror}") from error
