import hashlib
import json
import os
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.contract.spec import LoraSpec, ModelSpec
from tests.workers.tiny_model import assert_same_weights, make_model_folder, make_trainer, weights_of
from workers.actors.model_export import export_model
from workers.actors.trainer import Trainer
from workers.config_error import ConfigError


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_have_the_names_and_values_of_the_exported_file(tmp_path: Path, tied: bool, dtype: str) -> None:
    trainer = make_trainer(make_model_folder(tmp_path / "base", tied=tied), dtype=dtype)
    folder = trainer.export(str(tmp_path / "models" / "sft"))
    saved = load_file(f"{folder}/model.safetensors")
    assert_same_weights(weights_of(trainer), saved)
    assert ("lm_head.weight" in saved) == (not tied)
    assert {str(weight.dtype) for weight in saved.values()} == {f"torch.{dtype}"}
    assert json.loads(Path(folder, "config.json").read_text())["dtype"] == dtype


def test_export_is_a_folder_that_transformers_loads(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    folder = trainer.export(str(tmp_path / "out"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 1
    ids = torch.tensor([[3, 4, 5, 6]])
    expected = model(ids).logits.log_softmax(-1)[0, [1, 2], [5, 6]].tolist()
    assert trainer.logprobs([([3, 4], [5, 6])], temperature=1.0)[0] == pytest.approx(expected, abs=1e-6)


def test_export_replaces_an_older_folder_and_leaves_nothing_beside(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale.txt").write_text("old")
    trainer.export(str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "stale.txt").exists()


def test_export_clears_what_a_killed_export_left(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".writing-out-0").mkdir()
    make_trainer(model_folder).export(str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["out"]


def test_export_to_an_object_store_uploads_the_folder(model_folder: Path) -> None:
    location = make_trainer(model_folder).export("memory://exports/sft")
    names = {path.rsplit("/", 1)[-1] for path in fsspec.filesystem("memory").ls(location, detail=False)}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names


def test_weights_beyond_the_size_of_a_file_go_into_several(tmp_path: Path) -> None:
    trainer = make_trainer(make_model_folder(tmp_path / "base"), lora=LoraSpec(rank=2))
    folder = export_model(trainer._loaded(), str(tmp_path / "out"), max_shard_size="4KB")
    assert len(list(Path(folder).glob("model-*-of-*.safetensors"))) > 1
    assert_same_weights(weights_of(make_trainer(Path(folder))), weights_of(trainer))


def test_an_adapter_is_uploaded_in_its_folder(model_folder: Path) -> None:
    location = make_trainer(model_folder, lora=LoraSpec(rank=2)).export("memory://exports/lora")
    names = {path.rsplit("/", 1)[-1] for path in fsspec.filesystem("memory").ls(f"{location}/adapter", detail=False)}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)])
def test_weight_file_and_content_hold_what_leaves(
    model_folder: Path, tmp_path: Path, dtype: str, lora: LoraSpec | None
) -> None:
    trainer = make_trainer(model_folder, dtype=dtype, lora=lora)
    path = tmp_path / "weights.safetensors"
    manifest = trainer.write_weights(str(path))
    assert_same_weights(load_file(path), weights_of(trainer))
    assert (manifest.num_tensors, manifest.num_bytes) == (len(load_file(path)), path.stat().st_size)
    assert os.listdir(tmp_path) == ["weights.safetensors"]
    same, content = trainer.weight_content()
    assert same == manifest and content.tobytes() == path.read_bytes()


def test_digests_are_those_of_the_tensors(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder, dtype="bfloat16")
    path = str(tmp_path / "weights.safetensors")
    assert trainer.write_weights(path).digests is None
    found = trainer.write_weights(path, with_digests=True).digests
    assert found == trainer.weight_content(with_digests=True)[0].digests
    assert found == {
        name: hashlib.sha256(tensor.view(torch.int16).numpy().tobytes()).hexdigest()
        for name, tensor in load_file(path).items()
    }


def test_a_weight_file_without_a_place_leaves_nothing(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    with pytest.raises(IsADirectoryError):
        make_trainer(model_folder).write_weights(str(tmp_path / "weights"))
    assert os.listdir(tmp_path) == ["weights"]


def test_weights_are_copies(model_folder: Path) -> None:
    trainer = make_trainer(model_folder)
    for _, weight in trainer.weights():
        weight.zero_()
    assert any(bool(weight.any()) for _, weight in trainer.weights())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_do_not_depend_on_their_neighbours(model_folder: Path, temperature: float) -> None:
    trainer = make_trainer(model_folder)
    sequences = [([3, 4, 5], [6, 7, 8, 1]), ([9], [10]), ([3] * 12, [4, 1])]
    together = trainer.logprobs(sequences, temperature=temperature)
    alone = [trainer.logprobs([sequence], temperature=temperature)[0] for sequence in sequences]
    assert [len(values) for values in together] == [4, 1, 2]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_facts_name_the_end_token_first(model_folder: Path) -> None:
    facts = Trainer(model=ModelSpec(path=str(model_folder)), seed=0, num_cpus=0.5, num_gpus=0).load()
    assert facts.eos_token_ids == (1,)
    assert (facts.pad_token_id, facts.vocab_size) == (0, 23)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "tokenizer"),
        ("model.safetensors", "cannot be loaded"),
    ],
)
def test_an_incomplete_folder_is_a_config_error(tmp_path: Path, missing: str, message: str) -> None:
    folder = make_model_folder(tmp_path / "base")
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=message):
        make_trainer(folder)


def test_a_missing_folder_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        make_trainer(tmp_path / "nowhere")


def test_a_tokenizer_without_an_end_token_is_a_config_error(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "base")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token"}))
    with pytest.raises(ConfigError, match="end-of-sequence"):
        make_trainer(folder)


def test_weights_that_are_missing_are_a_config_error(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3, "layer_types": None}))
    with pytest.raises(ConfigError, match="lacks"):
        make_trainer(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_gpu_that_is_not_there_is_a_config_error(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        Trainer(model=ModelSpec(path=str(model_folder)), seed=0, num_cpus=1, num_gpus=1).load()
