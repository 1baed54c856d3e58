"""Reads a study's specification from YAML or JSON and makes its relative paths absolute, seen from the file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api.cli.spec_files import UnreadableSpec, make_paths_absolute, read_object


def load_study(file: Path) -> dict[str, Any]:
    """The study as the service takes it: paths in its base, its arms' overrides and its factors are absolute.

    Keys are left to the service to judge. Raises UnreadableSpec with the line where the YAML breaks.
    """
    study = read_object(file, "name, question, base, arms; see docs/studies.md")
    folder = file.resolve().parent
    if isinstance(base := study.get("base"), dict):
        make_paths_absolute(base, folder)
    for overrides in _overrides(study):
        _make_overrides_absolute(overrides, folder)
    factors = study.get("factors")
    for key, values in factors.items() if isinstance(factors, dict) else ():
        if isinstance(values, list):
            factors[key] = [_with_absolute_paths(key, value, folder) for value in values]
    return study


def _overrides(study: dict[str, Any]) -> Iterator[dict[str, Any]]:
    arms = study.get("arms")
    for arm in arms if isinstance(arms, list) else []:
        if isinstance(arm, dict) and isinstance(overrides := arm.get("overrides"), dict):
            yield overrides


def _make_overrides_absolute(overrides: dict[str, Any], folder: Path) -> None:
    for key, value in overrides.items():
        overrides[key] = _with_absolute_paths(key, value, folder)


def _with_absolute_paths(key: str, value: Any, folder: Path) -> Any:
    """The value of a dotted key, whose paths are found by writing it into a specification of its own."""
    nested = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    make_paths_absolute(nested, folder)
    for part in key.split("."):
        nested = nested[part]
    return nested


__all__ = ["UnreadableSpec", "load_study"]
