"""The classes that people train, from load to export: whatever is special about each must survive the whole way."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from service.contract.stages import OptimizerSpec
from tests.workers.architectures import CONFIGS, make_folder
from tests.workers.tiny_model import make_sft_spec, make_tokenizer, make_trainer
from workers.tokenizer_loading import load_tokenizer

IDS_BT = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10], [22, 21, 20, 19, 18, 17, 16, 15]])


@torch.no_grad()
def own_logits(folder: str | Path) -> Tensor:
    # The fused attention of transformers would leave Gemma 2's cap out.
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    logits: Tensor = model(IDS_BT).logits
    return logits


@pytest.mark.parametrize("changes", [{}, {"packing": True}], ids=["padded", "packed"])
@pytest.mark.parametrize("name", CONFIGS)
def test_sft_lowers_the_loss_and_the_export_is_what_was_trained(
    name: str, ten_pairs: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    trainer = make_trainer(make_folder(name, tmp_path / "base"))
    optimizer = OptimizerSpec(learning_rate=1e-2)
    spec = make_sft_spec(ten_pairs, num_epochs=10, optimizer=optimizer, **changes)
    trainer.prepare_sft(spec, str(tmp_path / "sft"))
    steps = trainer.sft_steps(max_steps=100, max_seconds=100.0).steps
    assert steps[-1].values["sft/nll"] < 0.7 * steps[0].values["sft/nll"]
    folder = trainer.export(str(tmp_path / "out"))
    with torch.no_grad():
        trained = trainer._loaded().model(IDS_BT).logits
    torch.testing.assert_close(own_logits(folder), trained, rtol=1e-5, atol=1e-5)
    again = make_trainer(Path(folder))
    assert again._loaded().facts == trainer._loaded().facts
    with torch.no_grad():
        assert torch.equal(again._loaded().model(IDS_BT).logits, trained)


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probs_are_those_of_the_models_own_logits(name: str, tmp_path: Path) -> None:
    folder = make_folder(name, tmp_path / "base")
    (found,) = make_trainer(folder).logprobs([([3, 4, 5], [6, 7, 8, 9, 10])], temperature=1.0)
    expected = own_logits(folder)[0].log_softmax(-1)[2:7].gather(1, torch.tensor([[6], [7], [8], [9], [10]]))
    assert found == pytest.approx(expected.squeeze(1).tolist(), abs=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tokenizer_of_ones_own_is_not_replaced_by_that_of_the_model_type(name: str, tmp_path: Path) -> None:
    text = "w3 w4 w19 unheard-of"
    tokenizer = load_tokenizer(str(make_folder(name, tmp_path / "base")))
    assert tokenizer(text)["input_ids"] == make_tokenizer()(text)["input_ids"]


def test_rows_beyond_the_tokenizer_stay_part_of_the_model(tmp_path: Path) -> None:
    trainer = make_trainer(make_folder("qwen3", tmp_path / "base"))
    assert trainer._loaded().facts.vocab_size == 40
    assert dict(trainer.weights())["lm_head.weight"].shape == (40, 32)
