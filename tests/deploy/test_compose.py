"""The containers cannot be run in the gate; what can be said about their files without, is said here."""

import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.settings import ApiSettings, SchedulerSettings, ServiceSettings

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESSES: dict[str, type[ServiceSettings]] = {"api": ApiSettings, "scheduler": SchedulerSettings}


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return content


def required_variables() -> set[str]:
    return set(re.findall(r"\$\{(\w+):\?", (REPOSITORY / "docker-compose.yml").read_text()))


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/compose.grafana.yml"])
def test_the_files_are_what_compose_understands(file: str) -> None:
    schemas = resources.files("check_jsonschema.builtin_schemas.vendor")
    schema = json.loads((schemas / "compose-spec.json").read_text())
    jsonschema.validate(yaml.safe_load((REPOSITORY / file).read_text()), schema)


def test_every_process_of_the_service_is_there() -> None:
    services = compose()["services"]
    assert set(services) == {
        *("postgres", "migrate", "api", "scheduler", "proxy"),
        *("ray-head", "ray-worker", "prometheus", "grafana"),
    }
    assert {name: service["deploy"]["replicas"] for name, service in services.items() if "deploy" in service} == {
        "api": 2,
        "scheduler": 2,
    }


def test_only_the_proxy_publishes_a_port_and_it_knows_the_api_alone() -> None:
    published = {name for name, service in compose()["services"].items() if "ports" in service}
    assert published == {"proxy"}
    assert compose()["networks"]["inside"] == {"internal": True}
    targets = re.findall(r"proxy_pass (\S+);", (REPOSITORY / "deploy/proxy/nginx.conf").read_text())
    assert set(targets) == {"http://api"}


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_ray_starts_with_token_authentication(name: str) -> None:
    environment = compose()["services"][name]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"].startswith("/run/secrets/")


def test_the_head_hands_out_nothing_and_drivers_go_where_the_workers_label_says() -> None:
    services = compose()["services"]
    assert {"--num-cpus=0", "--num-gpus=0"} <= set(services["ray-head"]["command"])
    [label] = [part for part in services["ray-worker"]["command"] if part.startswith("--labels=")]
    key, value = label.removeprefix("--labels=").split("=")
    assert json.loads(services["scheduler"]["environment"]["SEDRAY_DRIVER_LABELS"]) == {key: value}


def test_no_secret_has_a_default() -> None:
    example = (REPOSITORY / "deploy" / "example.env").read_text()
    named = dict(line.split("=", 1) for line in example.splitlines() if re.match(r"\w+=", line))
    assert set(named) == required_variables()
    assert set(named.values()) == {""}


@pytest.mark.parametrize("name", PROCESSES)
def test_each_process_gets_the_settings_that_it_needs(name: str) -> None:
    fields = PROCESSES[name].model_fields
    given = {variable.removeprefix("SEDRAY_").lower() for variable in compose()["services"][name]["environment"]}
    needed = {field for field, info in fields.items() if info.is_required()}
    assert needed <= given <= set(fields)


def test_every_secret_and_volume_that_is_used_is_declared() -> None:
    declared = compose()
    for service in declared["services"].values():
        assert set(service.get("secrets", [])) <= set(declared["secrets"])
        volumes = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {name for name in volumes if not name.startswith(".")} <= set(declared["volumes"])
        assert all((REPOSITORY / name).exists() for name in volumes if name.startswith("."))
        assert set(service["networks"]) <= set(declared["networks"])


def test_images_copy_what_exists_and_the_workers_see_the_contract_alone() -> None:
    copied = {name: _copied(name) for name in ("service", "workers")}
    assert all(os.path.exists(REPOSITORY / path) for paths in copied.values() for path in paths)
    code = {path for path in copied["workers"] if path.startswith(("api", "service", "workers", "migrations"))}
    assert code == {"workers", "service/__init__.py", "service/contract"}


def _copied(image: str) -> list[str]:
    lines = (REPOSITORY / "deploy" / f"Dockerfile.{image}").read_text().splitlines()
    return [path for line in lines if line.startswith("COPY ") for path in line.split()[1:-1]]
