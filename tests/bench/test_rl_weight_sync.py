from pathlib import Path

import pytest
from safetensors import safe_open

from bench.rl_weight_sync import ROW, SIZES, Size, _row, write_model


def test_the_promised_row_has_its_name() -> None:
    assert ROW == "weight_sync_vs_reload_speed"


def test_a_ratio_above_1_is_a_quicker_sync() -> None:
    row = _row(0.5, 5.0)
    assert (row.ours, row.peer, row.ratio) == (2.0, 0.2, 10.0)


@pytest.mark.parametrize("size", [SIZES["600k"]])
def test_a_model_has_an_output_layer_of_its_own_and_its_size(tmp_path: Path, size: Size) -> None:
    write_model(tmp_path, size)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    assert "lm_head.weight" in tensors
    assert sum(tensor.numel() for tensor in tensors.values()) == pytest.approx(0.6e6, rel=0.1)
