"""Hidden states and output layer of real model classes against the models' own logits."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
)

from workers.actors.hidden_states import SplitModel
from workers.config_error import ConfigError
from workers.objectives.base import StatisticsNeeds
from workers.objectives.fused_linear import fused_statistics

SIZES: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
CONFIGS: dict[str, AutoConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen2 tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "gemma2 capped": Gemma2Config(**SIZES, final_logit_softcapping=0.1),
    "granite scaled": GraniteConfig(**SIZES, logits_scaling=8.0),
    "cohere scaled": CohereConfig(**SIZES, logit_scale=0.125),
    "phi with bias": PhiConfig(**(SIZES | {"num_key_value_heads": 2})),
    "gpt2": GPT2Config(vocab_size=24, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1),
    "opt projected": OPTConfig(
        vocab_size=24, hidden_size=16, word_embed_proj_dim=8, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2
    ),
}


def make_model(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    if model.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states_and_head_give_the_models_own_statistics(name: str) -> None:
    model = make_model(CONFIGS[name])
    split = SplitModel(model, "a folder")
    ids_BT = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])
    ignored = -100
    labels_BT = torch.tensor([[ignored, 5, 6, 7, 8], [9, 10, 11, ignored, ignored]])
    kept_BT = labels_BT != ignored
    with torch.no_grad():
        hidden_BTH = split.hidden(ids_BT, torch.arange(5).expand(2, 5))
        ours = fused_statistics(
            hidden_BTH[kept_BT], split.head(torch.float32), labels_BT[kept_BT], needs=StatisticsNeeds()
        )
        logits = model(input_ids=ids_BT, use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(logits[kept_BT], labels_BT[kept_BT], reduction="none")
    torch.testing.assert_close(ours.nll_N, expected, rtol=1e-5, atol=1e-5)


def test_the_cap_of_the_test_above_matters() -> None:
    model = make_model(CONFIGS["gemma2 capped"])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[3, 4]]), use_cache=False).logits
    assert float(logits.abs().max()) > 0.05


@pytest.mark.parametrize("name", ["gemma2 capped", "granite scaled", "cohere scaled"])
def test_a_model_whose_logits_come_out_otherwise_is_refused(name: str) -> None:
    model = make_model(CONFIGS[name])
    own_forward = model.forward

    def doubled(*arguments: Any, **named: Any) -> Any:
        output = own_forward(*arguments, **named)
        output.logits = 2.0 * output.logits
        return output

    model.forward = doubled
    with pytest.raises(ConfigError, match="makes its logits in a way"):
        SplitModel(model, "a folder")
