"""The weight file: its folder's life, and what is refused before an engine is touched."""

import os
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workers.weight_sync import WeightSource, WeightSyncFailed, check_source, tensor_shapes, weight_folder

SHAPES = {"embed.weight": (4, 2), "norm.weight": (2,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    num_tensors: int
    num_bytes: int
    checksum: str


def a_source(path: Path, shapes: dict[str, tuple[int, ...]] = SHAPES) -> WeightSource:
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path, metadata={"format": "pt"})
    content = path.read_bytes()
    manifest = Manifest(num_tensors=len(shapes), num_bytes=len(content), checksum=sha256(content).hexdigest())
    return WeightSource(path=str(path), manifest=manifest)


def make_old(folder: Path) -> None:
    os.utime(folder, (0, 0))


def test_folder_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with weight_folder("attempt-1", root=tmp_path) as folder:
        path = Path(folder.path(3))
        path.write_bytes(b"weights")
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


def test_folder_is_removed_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), weight_folder("attempt-1", root=tmp_path):
        raise RuntimeError("stage failed")
    assert list(tmp_path.iterdir()) == []


def test_attempts_never_share_a_folder(tmp_path: Path) -> None:
    with weight_folder("a", root=tmp_path) as first, weight_folder("a", root=tmp_path) as second:
        assert first.path(1) != second.path(1)


def test_discarded_file_is_gone_and_may_be_gone_already(tmp_path: Path) -> None:
    with weight_folder("a", root=tmp_path) as folder:
        Path(folder.path(1)).write_bytes(b"weights")
        folder.discard(folder.path(1))
        folder.discard(folder.path(1))
        assert not Path(folder.path(1)).exists()


def test_folder_of_a_dead_owner_is_removed_by_the_next_attempt(tmp_path: Path) -> None:
    abandoned = tmp_path / "sedray-weights-dead-x"
    abandoned.mkdir()
    make_old(abandoned)
    with weight_folder("next", root=tmp_path):
        assert not abandoned.exists()


def test_folder_of_a_living_owner_or_another_program_stays(tmp_path: Path) -> None:
    other = tmp_path / "other-program"
    other.mkdir()
    make_old(other)
    with weight_folder("living", root=tmp_path) as living:
        make_old(living.folder)
        with weight_folder("next", root=tmp_path):
            assert living.folder.exists() and other.exists()


def test_shapes_are_read_from_the_header(tmp_path: Path) -> None:
    assert tensor_shapes(Path(a_source(tmp_path / "w.safetensors").path)) == SHAPES


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 64, b"\x02" + b"\x00" * 7 + b"[]"])
def test_other_files_are_no_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ValueError):
        tensor_shapes(tmp_path / "w")


def test_matching_source_is_accepted(tmp_path: Path) -> None:
    check_source(a_source(tmp_path / "w.safetensors"), SHAPES)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    source = a_source(tmp_path / "w.safetensors")
    Path(source.path).unlink()
    with pytest.raises(WeightSyncFailed, match="share a machine"):
        check_source(source, SHAPES)


def test_changed_byte_is_refused(tmp_path: Path) -> None:
    source = a_source(tmp_path / "w.safetensors")
    content = bytearray(Path(source.path).read_bytes())
    content[-1] ^= 1
    Path(source.path).write_bytes(content)
    with pytest.raises(WeightSyncFailed, match="not the one announced"):
        check_source(source, SHAPES)


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ({**SHAPES, "ghost.weight": (1,)}, "unknown to the model: ghost.weight"),
        ({"norm.weight": (2,)}, "missing: embed.weight"),
        ({**SHAPES, "norm.weight": (3,)}, r"norm.weight has shape \(3,\), not \(2,\)"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_named(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], problem: str
) -> None:
    with pytest.raises(WeightSyncFailed, match=problem):
        check_source(a_source(tmp_path / "w.safetensors", shapes), SHAPES)
