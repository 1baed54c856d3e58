"""The documentation says what is so: its links, paths, code, pictures, and what is made from the code."""

import ast
import re
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from api.problems import STATUS_OF
from service.contract.json_schema import experiment_schema
from service.contract.metric_names import METRICS
from service.contract.status import EndReason
from tests.docs.blocks import PAGES, REPOSITORY, blocks, inline

DOCS = REPOSITORY / "docs"
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?:api|service|workers|migrations|bench|tests|docs|examples|deploy|\.ci)/[\w./-]+")
_MADE_LATER = {"docs/reference", "docs/reference/cli.md"}


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    """The pages that the site's build makes."""
    sys.path.insert(0, str(REPOSITORY / ".ci"))
    try:
        pages: dict[str, str] = import_module("reference").pages()
        return pages
    finally:
        sys.path.remove(str(REPOSITORY / ".ci"))


def test_links_lead_to_files_of_the_checkout() -> None:
    broken = [
        f"{page.relative_to(REPOSITORY)}: {target}"
        for page in PAGES
        for target in _LINK.findall(page.read_text("utf-8"))
        if "://" not in target and target[0] != "#" and not (page.parent / target.split("#")[0]).exists()
    ]
    assert broken == []


def test_paths_in_the_text_exist() -> None:
    named = {(page, text) for page in PAGES for text in inline(page) if _PATH.fullmatch(text)}
    missing = [f"{page.relative_to(REPOSITORY)}: {text}" for page, text in named if not (REPOSITORY / text).exists()]
    assert [one for one in missing if one.split(": ")[1] not in _MADE_LATER] == []


def test_every_page_has_its_place_on_the_site() -> None:
    nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    placed = set(re.findall(r"[\w/.-]+\.md", str(nav)))
    pages = {str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents}
    assert pages == {one for one in placed if not one.startswith("reference/")}


def test_python_compiles_and_finds_what_it_imports() -> None:
    shown = [
        (page, block)
        for page in PAGES
        for language, block in blocks(page)
        if language == "python" or (not language and block.startswith(("from ", "import ")))
    ]
    assert len(shown) >= 5
    for page, block in shown:
        tree = compile(block, str(page), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert isinstance(tree, ast.Module)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert all(find_spec(one.name) for one in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert all(hasattr(import_module(str(node.module)), one.name) for one in node.names)


def test_yaml_can_be_read() -> None:
    for page in PAGES:
        for language, block in blocks(page):
            if language == "yaml":
                assert yaml.safe_load(block) is not None, f"{page}:\n{block}"


def test_the_architecture_page_tells_the_import_contracts() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rules, *parts = text.split("\n## ")[1:]
    assert {row[2:].split(" | ")[0] for row in rules.splitlines() if row.startswith("| ")} == {
        "contract",
        *(one["name"] for one in contracts),
    }
    for contract in (one for one in contracts if one["type"] == "layers"):
        section = next(part for part in parts if part.startswith(contract["name"].lower().replace("the", "The", 1)))
        rows = [row.split(" | ")[0] for row in section.splitlines() if row.startswith("| `")]
        assert [re.findall(r"`(\w+)`", row) for row in rows] == [one.split(" | ") for one in contract["layers"]]


def test_the_reference_names_all_that_there_is(reference: dict[str, str]) -> None:
    for part, schema in experiment_schema()["$defs"].items():
        assert f"## {part}\n" in reference["specification.md"]
        assert all(f"| `{field}` |" in reference["specification.md"] for field in schema.get("properties", {}))
    assert all(f"| `{metric.name}` |" in reference["metrics.md"] for metric in METRICS)
    assert all(f"| `{error.code}` |" in reference["errors.md"] for error in STATUS_OF)
    assert all(f"| `{reason}` |" in reference["errors.md"] for reason in EndReason)
    assert "### `sedray study report STUDY_ID`" in reference["cli.md"]
    assert "(`submit_experiment`)" in reference["rest.md"]


def test_pictures_are_those_that_the_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / ".ci"))
    for name, text in import_module("sed_pictures").pictures().items():
        assert (Path(DOCS / "explain") / name).read_text("utf-8") == text
