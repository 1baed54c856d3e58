"""Specifications to begin with: those of the package, and the built-in example where the sources are at hand."""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

import service.contract
from api.spec_check_schemas import SpecTemplate
from service.contract.studies import StudySpec

_FOLDER = files("api.web") / "spec_templates"
_EXAMPLES = Path(next(iter(service.contract.__path__))).parents[1] / "examples" / "countdown"


@cache
def spec_templates() -> tuple[SpecTemplate, ...]:
    """What runs as it stands comes first."""
    packaged = sorted((one for one in _FOLDER.iterdir() if one.name.endswith(".yaml")), key=lambda one: one.name)
    return (*_examples(), *(_template(one.name, one.read_text("utf-8")) for one in packaged))


def _examples() -> Iterator[SpecTemplate]:
    """The examples of a source checkout, which this very service can read."""
    for name in ("sed.yaml", "study-small.yaml"):
        if (_EXAMPLES / name).is_file():
            text = (_EXAMPLES / name).read_text("utf-8")
            lines = [line for line in text.splitlines() if not line.startswith("# yaml-language-server")]
            yield _template(f"countdown/{name}", _with_whole_paths("\n".join(lines) + "\n"))


def _with_whole_paths(text: str) -> str:
    """Paths as seen from the example's folder."""
    found = sorted(_relative_paths(yaml.safe_load(text)), key=len, reverse=True)
    for path in dict.fromkeys(found):
        for before, after in ((" ", "\n"), (" ", "}"), (" ", ",")):
            text = text.replace(f"path:{before}{path}{after}", f"path:{before}{_EXAMPLES / path}{after}")
    return text


def _relative_paths(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            if str(key).rsplit(".", 1)[-1] == "path" and isinstance(child, str) and not child.startswith("/"):
                yield child
            else:
                yield from _relative_paths(child)
    elif isinstance(node, list):
        for child in node:
            yield from _relative_paths(child)


def _template(name: str, text: str) -> SpecTemplate:
    """Its first comment is its title, else its description."""
    body = yaml.safe_load(text)
    is_study = set(body) - {"name"} > set() and "arms" in body and "arms" in StudySpec.model_fields
    first = text.split("\n", 1)[0]
    title = first.removeprefix("#").strip() if first.startswith("#") else str(body.get("description") or name)
    return SpecTemplate(
        name=name.removesuffix(".yaml"), kind="study" if is_study else "experiment", title=title, text=text
    )
