from pathlib import Path
from uuid import uuid4

import pytest
import torch
from torch import Tensor

from workers.actors.rank_group import RankGroup
from workers.actors.tensor_storage import load_tensors, save_tensors, tensor_names
from workers.checkpoint_draft import begin_draft
from workers.checkpoints import Checkpoint, load_checkpoint

ALONE = RankGroup()
TENSORS = {
    "matrix": torch.arange(12.0).reshape(3, 4),
    "turned": torch.arange(12.0).reshape(3, 4).T,
    "step": torch.tensor(7.0),
    "nothing": torch.zeros(0, 4),
    "half": torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "generator": torch.get_rng_state(),
    "count": torch.tensor([2**40]),
}


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "checkpoints") if request.param == "local" else f"memory://{uuid4().hex}/checkpoints"


def stored(root: str, tensors: dict[str, Tensor] = TENSORS) -> Checkpoint:
    draft = begin_draft(root, "step-00000001")
    draft.commit(save_tensors(tensors, draft, ALONE), {})
    return load_checkpoint(root, "step-00000001")


def test_every_tensor_comes_back_bit_for_bit(root: str) -> None:
    checkpoint = stored(root)
    assert tensor_names(checkpoint) == set(TENSORS)
    found = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    load_tensors(found, checkpoint, ALONE)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_some_of_the_tensors_can_be_loaded(root: str) -> None:
    step = torch.tensor(0.0)
    load_tensors({"step": step}, stored(root), ALONE)
    assert step == 7.0


def test_a_tensor_that_is_missing_or_of_another_shape_is_named(root: str) -> None:
    checkpoint = stored(root)
    with pytest.raises(RuntimeError, match="unknown"):
        load_tensors({"unknown": torch.zeros(1)}, checkpoint, ALONE)
    with pytest.raises(ValueError, match="matrix"):
        load_tensors({"matrix": torch.zeros(4, 4)}, checkpoint, ALONE)


def test_files_hold_numbers_and_no_code(tmp_path: Path) -> None:
    location = Path(stored(str(tmp_path)).location)
    assert {path.name for path in location.iterdir()} == {"manifest.json", "tensors.json", "tensors-00000.bin"}
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in TENSORS.values())
    assert (location / "tensors-00000.bin").stat().st_size == num_bytes
