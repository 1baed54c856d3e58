"""The manifests against Kubernetes' own schemas, and against what they name: commands, variables, secrets, labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import ApiSettings, SchedulerSettings, ServiceSettings

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "k8s"
PROCESSES: dict[str, type[ServiceSettings]] = {"api": ApiSettings, "scheduler": SchedulerSettings}


def kustomization() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return content


def manifests() -> Iterator[dict[str, Any]]:
    for name in kustomization()["resources"]:
        yield from yaml.safe_load_all((FOLDER / name).read_text())


def named(kind: str, name: str) -> dict[str, Any]:
    [found] = [one for one in manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template by the name of its owner."""
    for one in manifests():
        if one["kind"] in ("Deployment", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]
        if one["kind"] == "RayCluster":
            yield "ray-head", one["spec"]["headGroupSpec"]["template"]
            yield from (("ray-worker", group["template"]) for group in one["spec"]["workerGroupSpecs"])


def environment_of(pod: dict[str, Any]) -> set[str]:
    [container] = pod["spec"]["containers"]
    shared = named("ConfigMap", "sedray")["data"] if "envFrom" in container else {}
    return {*shared, *(entry["name"] for entry in container.get("env", []))}


@pytest.mark.parametrize("manifest", list(manifests()), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_each_manifest_is_what_kubernetes_understands(manifest: dict[str, Any]) -> None:
    if manifest["kind"] != "RayCluster":  # a custom resource: its operator brings the schema
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_every_file_of_the_folder_is_used_and_every_image_has_its_place() -> None:
    assert {file.name for file in FOLDER.glob("*.yaml")} == {"kustomization.yaml", *kustomization()["resources"]}
    images = {container["image"] for _, pod in pods() for container in pod["spec"]["containers"]}
    assert images == {image["name"] for image in kustomization()["images"]}


@pytest.mark.parametrize("name", PROCESSES)
def test_each_process_gets_the_settings_that_it_needs(name: str) -> None:
    fields = PROCESSES[name].model_fields
    given = {variable.removeprefix("SEDRAY_").lower() for variable in environment_of(dict(pods())[name])}
    assert {field for field, info in fields.items() if info.is_required()} <= given <= set(fields)


def test_ray_starts_with_token_authentication_and_its_head_hands_out_nothing() -> None:
    for name in ("ray-head", "ray-worker"):
        assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"} <= environment_of(dict(pods())[name])
    assert named("RayCluster", "sedray")["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_secrets_are_named_and_nowhere_given() -> None:
    assert not [one for one in manifests() if one["kind"] == "Secret"]
    secrets = {volume["secret"]["secretName"] for _, pod in pods() for volume in pod["spec"].get("volumes", [])
               if "secret" in volume}  # fmt: skip
    assert secrets == {"sedray"}


def test_nobody_is_root_and_nobody_talks_to_kubernetes() -> None:
    for name, pod in pods():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        assert pod["spec"]["automountServiceAccountToken"] is False, name


def test_policies_and_budgets_select_pods_that_exist() -> None:
    components = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pods()}
    selected = {
        one["spec"].get("podSelector", one["spec"].get("selector"))["matchLabels"]["app.kubernetes.io/component"]
        for one in manifests()
        if one["kind"] in ("NetworkPolicy", "PodDisruptionBudget") and one["metadata"]["name"] != "nothing-by-default"
    }
    assert selected == {"api", "scheduler", "ray"} <= components
