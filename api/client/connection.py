"""Finds the service and the token: what is said comes before the environment, that before what lies around."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.client.errors import NoConnection
from api.client.profiles import read_profiles, read_token

DEFAULT_DATA = Path(".sedray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where to call and as whom."""

    url: str
    token: str
    ray_dashboard_url: str | None = None


def find_connection(
    *, url: str | None = None, token_file: Path | None = None, data: Path | None = None, profile: str | None = None
) -> Connection:
    """The first of these that says both address and token; raises NoConnection.

    1. `profile`, or the stack of `data`, where one is named;
    2. `SEDRAY_URL` and `SEDRAY_TOKEN`;
    3. the profile that `SEDRAY_PROFILE` names;
    4. the stack that runs on `SEDRAY_DATA` or `./.sedray`;
    5. the default profile.

    `url` and `token_file` replace what is found.
    """
    token = read_token(token_file) if token_file else None
    if profile is not None:
        return _of_profile(profile, url, token)
    if data is None:
        url = url or os.environ.get("SEDRAY_URL")
        token = token or os.environ.get("SEDRAY_TOKEN")
        if url and token:
            return Connection(url=url, token=token)
        if named := os.environ.get("SEDRAY_PROFILE"):
            return _of_profile(named, url, token)
    elif url and token:
        return Connection(url=url, token=token)
    endpoint = read_endpoint(data or Path(os.environ.get("SEDRAY_DATA", DEFAULT_DATA)))
    if endpoint is not None:
        return Connection(
            url=url or endpoint["url"],
            token=token or read_token(Path(endpoint["token_file"])),
            ray_dashboard_url=endpoint.get("ray_dashboard_url"),
        )
    if data is None and (default := read_profiles().default) is not None:
        return _of_profile(default, url, token)
    raise NoConnection(
        "no service is known: start one with `sedray up`, or add it with `sedray profile add`, "
        "or give --url and --token-file, or set SEDRAY_URL and SEDRAY_TOKEN"
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


def _of_profile(name: str, url: str | None, token: str | None) -> Connection:
    found = read_profiles().named(name)
    return Connection(url=url or found.url, token=token or found.token())
