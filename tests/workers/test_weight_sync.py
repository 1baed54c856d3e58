"""The weight file: how it is laid out, where it lies, and what is refused before an engine is touched."""

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workers.weight_sync import (
    WeightSyncFailed,
    landing_folder,
    lay_out,
    require_shapes,
    tensor_shapes,
    weight_folder,
)

SHAPES = {"embed.weight": (4, 2), "norm.weight": (2,)}


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


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def test_a_landed_file_is_shared_until_the_last_one_releases_it(tmp_path: Path) -> None:
    with landing_folder("a", root=tmp_path) as one, landing_folder("a", root=tmp_path) as other:
        paths = [folder.land("policy", b"weights") for folder in (one, other)]
        assert [Path(path).read_bytes() for path in paths] == [b"weights"] * 2
        assert len({Path(path).stat().st_ino for path in paths}) == 1
        one.release(paths[0])
        assert names_in(one.folder) == sorted(["policy", Path(paths[1]).name])
        other.release(paths[1])
        assert names_in(one.folder) == []


def test_a_landing_folder_is_gone_with_the_last_engine(tmp_path: Path) -> None:
    with landing_folder("a", root=tmp_path) as one:
        with landing_folder("a", root=tmp_path):
            pass
        one.release(one.land("policy", memoryview(b"weights")))
        assert stat.S_IMODE(one.folder.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


def test_a_landing_folder_that_a_killed_engine_left_is_removed_by_the_next_attempt(tmp_path: Path) -> None:
    (tmp_path / "sedray-landing-dead").mkdir()
    make_old(tmp_path / "sedray-landing-dead")
    with landing_folder("living", root=tmp_path) as living:
        make_old(living.folder)
        with weight_folder("next", root=tmp_path):
            assert [path.name for path in tmp_path.glob("sedray-landing-*")] == [living.folder.name]


def test_shapes_are_read_from_the_header(tmp_path: Path) -> None:
    save_file({name: torch.ones(shape) for name, shape in SHAPES.items()}, tmp_path / "w", metadata={"format": "pt"})
    assert tensor_shapes(tmp_path / "w") == SHAPES


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 64, b"\x02" + b"\x00" * 7 + b"[]"])
def test_other_files_are_no_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ValueError):
        tensor_shapes(tmp_path / "w")


def test_a_laid_out_file_reads_as_safetensors(tmp_path: Path) -> None:
    tensors = {
        "narrow": torch.tensor([1, 2, 3], dtype=torch.int8),
        "half": torch.arange(6.0).to(torch.bfloat16).view(2, 3),
        "empty": torch.ones(0, 4),
        "wide": torch.tensor(5.0, dtype=torch.float64),
    }
    layout = lay_out({name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()})
    content = bytearray(layout.header.ljust(layout.num_bytes, b"\0"))
    for name, place in layout.places.items():
        data = tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()
        content[place.start : place.start + len(data)] = data
    (tmp_path / "w").write_bytes(content)
    found = load_file(tmp_path / "w")
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_a_dtype_without_a_place_in_the_format_is_refused() -> None:
    with pytest.raises(ValueError, match="complex64"):
        lay_out({"w": ("complex64", (2,))})


def test_tensors_that_fit_the_model_are_accepted() -> None:
    require_shapes(dict(reversed(SHAPES.items())), SHAPES)


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ({**SHAPES, "ghost.weight": (1,)}, "unknown to the model: ghost.weight"),
        ({"norm.weight": (2,)}, "missing: embed.weight"),
        ({**SHAPES, "norm.weight": (3,)}, r"norm.weight has shape \(3,\), not \(2,\)"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_named(shapes: dict[str, tuple[int, ...]], problem: str) -> None:
    with pytest.raises(WeightSyncFailed, match=problem):
        require_shapes(shapes, SHAPES)
