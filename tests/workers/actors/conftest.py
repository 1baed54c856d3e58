from pathlib import Path

import pytest

from tests.workers.tiny_model import make_model_folder, make_pairs, write_lines


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; nobody writes into it."""
    return make_model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def ten_pairs(tmp_path: Path) -> str:
    """A file of ten supervised samples."""
    return write_lines(tmp_path / "sft.jsonl", make_pairs(10))
