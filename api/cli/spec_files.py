"""Reads a specification from YAML or JSON and makes its relative paths absolute, seen from the file."""

import json
from pathlib import Path
from typing import Any

import yaml

from service.contract.studies import with_overrides

_PATHS = (
    ("model", "path"),
    ("sft", "data", "path"),
    ("sft", "eval_data", "path"),
    ("rl", "data", "path"),
    ("evaluation", "data", "path"),
)
"""Where a specification names files."""


class UnreadableSpec(Exception):
    """The file is missing, or not one YAML or JSON object."""


def load_spec(file: Path) -> dict[str, Any]:
    """The specification as the service takes it. Keys are left to the service to judge.

    Raises UnreadableSpec with the line where the YAML breaks.
    """
    spec = load_object(file, "one object with keys such as name, model, sft, rl; see `sedray schema`")
    make_paths_absolute(spec, file.resolve().parent)
    return spec


def load_study(file: Path) -> dict[str, Any]:
    """A study as the service takes it: the paths of the base, of arms and of factors are seen from the file too."""
    study = load_object(file, "one object with keys such as name, question, base, arms, baseline, sft_seeds")
    return {**study, **_with_absolute_paths(study, file.resolve().parent)}


def load_object(file: Path, expected: str) -> dict[str, Any]:
    """The object that a YAML or JSON file holds. Raises UnreadableSpec."""
    found = load_yaml(file)
    if not isinstance(found, dict):
        raise UnreadableSpec(f"{file} must hold {expected}")
    return found


def load_yaml(file: Path) -> Any:
    """What a YAML or JSON file holds. Raises UnreadableSpec."""
    try:
        return _read_yaml(file.read_text())
    except OSError as error:
        raise UnreadableSpec(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UnreadableSpec(f"{file} is not valid YAML: {error}") from error


def make_paths_absolute(spec: dict[str, Any], folder: Path) -> None:
    """In place, wherever a specification names files."""
    for path in _PATHS:
        _make_absolute(spec, path, folder)
    evaluation = spec.get("evaluation")
    further = evaluation.get("further_sets") if isinstance(evaluation, dict) else None
    for one in further if isinstance(further, list) else []:
        _make_absolute(one, ("data", "path"), folder)


def absolute_overrides(base: dict[str, Any], overrides: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Values by dotted keys, with paths made absolute: what is a path, the whole specification shows."""
    try:
        whole = with_overrides(base, overrides)
    except ValueError:
        return overrides  # The service says which one is wrong.
    make_paths_absolute(whole, folder)
    return {key: None if value is None else _at(whole, key, value) for key, value in overrides.items()}


def _with_absolute_paths(study: dict[str, Any], folder: Path) -> dict[str, Any]:
    base, arms, factors = study.get("base"), study.get("arms"), study.get("factors")
    if not isinstance(base, dict):
        return {}
    make_paths_absolute(base, folder)
    changed: dict[str, Any] = {"base": base}
    if isinstance(arms, list):
        changed["arms"] = [absolute_arm(base, arm, folder) for arm in arms]
    if isinstance(factors, dict):
        changed["factors"] = {
            key: [absolute_overrides(base, {key: value}, folder)[key] for value in values]
            if isinstance(values, list)
            else values
            for key, values in factors.items()
        }
    return changed


def absolute_arm(base: dict[str, Any], arm: Any, folder: Path) -> Any:
    """An arm with the paths in its overrides made absolute; what is no arm is left for the service to judge."""
    overrides = arm.get("overrides") if isinstance(arm, dict) else None
    return {**arm, "overrides": absolute_overrides(base, overrides, folder)} if isinstance(overrides, dict) else arm


def _at(spec: Any, dotted: str, otherwise: Any) -> Any:
    """What stands there; `otherwise` where a later override has replaced what it stood in."""
    node = spec
    for key in dotted.split("."):
        if not isinstance(node, dict) or key not in node:
            return otherwise
        node = node[key]
    return node


def apply_overrides(spec: dict[str, Any], overrides: list[str]) -> None:
    """Sets dotted keys in place: `sft.objective.lambda=2`, values read as YAML; raises UnreadableSpec."""
    for dotted, value in map(parse_override, overrides):
        *parents, last = dotted.split(".")
        node = spec
        for key in parents:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise UnreadableSpec(f"--set {dotted}: {key} holds {json.dumps(child)}, not an object")
            node = child
        node[last] = value


def parse_override(override: str) -> tuple[str, Any]:
    """Dotted key and value of `key.subkey=value`; raises UnreadableSpec."""
    dotted, separator, value = override.partition("=")
    if not separator:
        raise UnreadableSpec(f"--set {override!r} must look like key.subkey=value")
    return dotted, _read_yaml(value)


class _Loader(yaml.SafeLoader):
    """Times stay the text that the service reads; JSON has no other form of them."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _make_absolute(spec: Any, path: tuple[str, ...], folder: Path) -> None:
    node: Any = spec
    for key in path[:-1]:
        node = node.get(key) if isinstance(node, dict) else None
    value = node.get(path[-1]) if isinstance(node, dict) else None
    if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
        return
    # `owner/name` of a hub dataset looks like a relative path; a folder begins with a dot.
    if node.get("type") != "huggingface" or value.startswith("."):
        node[path[-1]] = str((folder / value).resolve())
