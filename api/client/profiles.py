"""Profiles: services by name, in `~/.config/sedray/config.toml` (or `$XDG_CONFIG_HOME/sedray/config.toml`).

    default = "team"

    [profiles.team]
    url = "https://sedray.example.org"
    token_command = "pass show sedray"      # or token_file = "~/.sedray-token"

The file holds no secret itself; it says where the token is found.
"""

import json
import os
import shlex
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from api.client.errors import NoConnection

_COMMAND_TIMEOUT_S = 30.0


class Profile(BaseModel):
    """One service, and where the token for it is found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^https?://[^/]")
    token_file: Path | None = None
    token_command: str | None = None
    """A command that prints the token; run without a shell."""

    @model_validator(mode="after")
    def _has_one_token(self) -> "Profile":
        if (self.token_file is None) == (self.token_command is None):
            raise ValueError("needs either token_file or token_command")
        return self

    def token(self) -> str:
        """The token; raises NoConnection."""
        return read_token(self.token_file) if self.token_file is not None else run_for_token(self.token_command or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """What the file says."""

    default: str | None = None
    by_name: Mapping[str, Profile] = field(default_factory=dict)

    def named(self, name: str) -> Profile:
        """The profile of this name; raises NoConnection."""
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "there is none"
            raise NoConnection(f"no profile {name!r} in {config_file()}; known: {known}. See: sedray profile ls")
        return self.by_name[name]

    def with_profile(self, name: str, profile: Profile) -> "Profiles":
        """With one more, or another in its place; the first one becomes the default."""
        return replace(self, default=self.default or name, by_name={**self.by_name, name: profile})

    def without(self, name: str) -> "Profiles":
        """With one less; raises NoConnection where it is unknown."""
        self.named(name)
        rest = {other: profile for other, profile in self.by_name.items() if other != name}
        return Profiles(default=None if self.default == name else self.default, by_name=rest)

    def using(self, name: str) -> "Profiles":
        """With another default; raises NoConnection where it is unknown."""
        self.named(name)
        return replace(self, default=name)


def config_file() -> Path:
    """Where profiles are kept."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "sedray" / "config.toml"


def read_profiles() -> Profiles:
    """What the file says; nothing where there is none. Raises NoConnection where it cannot be read."""
    file = config_file()
    try:
        found = tomllib.loads(file.read_text("utf-8"))
        by_name = {name: Profile.model_validate(facts) for name, facts in found.get("profiles", {}).items()}
    except FileNotFoundError:
        return Profiles()
    except (OSError, tomllib.TOMLDecodeError, ValidationError, AttributeError) as error:
        raise NoConnection(f"cannot read {file}: {error}") from error
    return Profiles(default=found.get("default"), by_name=by_name)


def write_profiles(profiles: Profiles) -> None:
    """Replaces the file, readable by its owner alone. What it said beside profiles, comments too, is lost."""
    lines = [] if profiles.default is None else [f"default = {_quoted(profiles.default)}", ""]
    for name, profile in sorted(profiles.by_name.items()):
        facts = profile.model_dump(mode="json", exclude_none=True)
        lines += [f"[profiles.{_quoted(name)}]", *(f"{key} = {_quoted(value)}" for key, value in facts.items()), ""]
    file = config_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_name(".config.toml.part")
    part.touch(mode=0o600)
    part.write_text("\n".join(lines), "utf-8")
    part.replace(file)


def read_token(file: Path) -> str:
    """The token in a file; raises NoConnection."""
    try:
        return file.expanduser().read_text().strip()
    except OSError as error:
        raise NoConnection(f"cannot read the token file {file}: {error.strerror}") from error


def run_for_token(command: str) -> str:
    """What the command prints; raises NoConnection."""
    try:
        done = subprocess.run(
            shlex.split(command), stdout=subprocess.PIPE, text=True, timeout=_COMMAND_TIMEOUT_S, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NoConnection(f"the profile's token command failed: {error}") from error
    if not (token := done.stdout.strip()):
        raise NoConnection(f"the profile's token command printed nothing: {command}")
    return token


def _quoted(text: str) -> str:
    """As a TOML basic string, whose escapes are those of JSON; it wants DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
