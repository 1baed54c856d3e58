"""The containers cannot be run in the gate; what can be said about their files without, is said here."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from service.settings import ApiSettings, SchedulerSettings

REPOSITORY = Path(__file__).resolve().parents[2]


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return content


def required_variables() -> set[str]:
    return set(re.findall(r"\$\{(\w+):\?", (REPOSITORY / "docker-compose.yml").read_text()))


def test_every_process_of_the_service_is_there() -> None:
    assert set(compose()["services"]) == {"postgres", "migrate", "api", "scheduler", "ray-head"}


def test_only_the_api_publishes_a_port() -> None:
    published = {name for name, service in compose()["services"].items() if "ports" in service}
    assert published == {"api"}
    assert compose()["networks"]["inside"] == {"internal": True}


def test_ray_starts_with_token_authentication() -> None:
    environment = compose()["services"]["ray-head"]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"].startswith("/run/secrets/")


def test_no_secret_has_a_default() -> None:
    example = (REPOSITORY / "deploy" / "example.env").read_text()
    named = dict(line.split("=", 1) for line in example.splitlines() if re.match(r"\w+=", line))
    assert set(named) == required_variables()
    assert set(named.values()) == {""}


def test_each_process_gets_the_settings_that_it_needs() -> None:
    services = compose()["services"]
    for name, settings in {"api": ApiSettings, "scheduler": SchedulerSettings}.items():
        given = {variable.removeprefix("SEDRAY_").lower() for variable in services[name]["environment"]}
        needed = {field for field, info in settings.model_fields.items() if info.is_required()}
        assert needed <= given <= set(settings.model_fields)


def test_every_secret_and_volume_that_is_used_is_declared() -> None:
    declared = compose()
    for service in declared["services"].values():
        assert set(service.get("secrets", [])) <= set(declared["secrets"])
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(declared["volumes"])
        assert set(service["networks"]) <= set(declared["networks"])


def test_images_copy_what_exists_and_the_workers_see_the_contract_alone() -> None:
    copied = {name: _copied(name) for name in ("service", "workers")}
    assert all(os.path.exists(REPOSITORY / path) for paths in copied.values() for path in paths)
    code = {path for path in copied["workers"] if path.startswith(("api", "service", "workers", "migrations"))}
    assert code == {"workers", "service/__init__.py", "service/contract"}


def _copied(image: str) -> list[str]:
    lines = (REPOSITORY / "deploy" / f"Dockerfile.{image}").read_text().splitlines()
    return [path for line in lines if line.startswith("COPY ") for path in line.split()[1:-1]]
