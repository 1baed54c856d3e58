"""Size caps: 400 lines a file, 80 a function. Long ones hide more than one idea."""

import ast
from collections.abc import Iterator
from pathlib import Path

FILE_CAP = 400
FUNCTION_CAP = 80
ROOTS = ("api", "service", "workers", "tests", "bench", "examples", ".ci", "migrations/env.py", "migrations/apply.py")


def violations(repository: Path) -> list[str]:
    """One line for each file or function of the project that is longer than its cap."""
    return [finding for file in _python_files(repository) for finding in _of_file(file, repository)]


def _python_files(repository: Path) -> Iterator[Path]:
    for root in ROOTS:
        path = repository / root
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def _of_file(file: Path, repository: Path) -> Iterator[str]:
    source = file.read_text()
    name = file.relative_to(repository)
    if (lines := len(source.splitlines())) > FILE_CAP:
        yield f"{name}: {lines} lines, the cap is {FILE_CAP}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_CAP:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, the cap is {FUNCTION_CAP}"
