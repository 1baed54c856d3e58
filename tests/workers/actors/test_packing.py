"""Packed sequences against the same ones alone: values, gradients, and which models can be packed at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, Lfm2Config, MambaConfig, PreTrainedModel

from tests.workers.architectures import CONFIGS, SIZES, WINDOW, make_model
from tests.workers.tiny_model import make_sft_spec, make_trainer
from workers.actors.embedding_noise import EmbeddingNoise
from workers.actors.hidden_states import SplitModel
from workers.actors.packed_attention import IMPLEMENTATION, Attention
from workers.config_error import ConfigError
from workers.data.batching import collate, plan_microbatches
from workers.data.packed_row import PackedRow
from workers.data.token_sequence import TokenSequence
from workers.objectives.base import StatisticsNeeds
from workers.objectives.build import row_loss
from workers.objectives.fused_linear import fused_loss, fused_statistics
from workers.objectives.sed_sft import SelectivePenalty

NEEDS = StatisticsNeeds(top_k=2)
SED = row_loss(SelectivePenalty(lambda_=1.0, top_k=2, tau=0.7))


@dataclass(frozen=True)
class Subject:
    """A model in float64 and its parts. The norms and rotary angles of these classes are float32 all the same."""

    model: PreTrainedModel
    split: SplitModel


def make_subject(name: str) -> Subject:
    model = make_model(name)
    subject = Subject(model=model, split=SplitModel(model, "a folder"))
    model.double()
    return subject


def make_sequences(lengths: Sequence[int]) -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randint(3, 23, (length,), generator=generator).tolist() for length in lengths]
    return [
        TokenSequence(prompt_token_ids=tuple(row[: len(row) // 2]), completion_token_ids=tuple(row[len(row) // 2 :]))
        for row in rows
    ]


def backward(
    subject: Subject, rows: Sequence[TokenSequence], *, chunk_tokens: int | None = None, **layout: bool
) -> tuple[Tensor, Tensor]:
    """Add the gradients of a micro-batch; returns its loss sum and the per-token negative log-likelihood, [N]."""
    batch = collate(rows, pad_token_id=0, **layout)
    hidden_BTH = subject.split.hidden(batch.input_ids_BT, batch.position_ids_BT, batch.packed_row)
    hidden_NH = hidden_BTH.flatten(0, 1)[batch.label_places_N]
    inputs = hidden_NH, subject.split.head(hidden_BTH.dtype), batch.labels_N
    output = fused_loss(*inputs, SED, needs=NEEDS, chunk_tokens=chunk_tokens)
    torch.autograd.backward(output.loss_sum)
    return output.loss_sum.detach(), fused_statistics(*inputs, needs=NEEDS).nll_N


def gradients_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Taken away from the model."""
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_are_those_of_the_sequences_alone(name: str, packing: bool) -> None:
    subject = make_subject(name)
    rows = make_sequences((7, 2, 3 * WINDOW, 5))
    alone = [backward(subject, [row], packing=False) for row in rows]
    expected = gradients_of(subject.model)
    loss, nll_N = backward(subject, rows, packing=packing)
    torch.testing.assert_close(nll_N, torch.cat([nll for _, nll in alone]), rtol=0, atol=1e-10)
    torch.testing.assert_close(loss, torch.stack([loss for loss, _ in alone]).sum(), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients_of(subject.model), expected, rtol=0, atol=1e-6)


def make_group(prompt_length: int, lengths: Sequence[int]) -> list[TokenSequence]:
    """Completions of one prompt."""
    generator = torch.Generator().manual_seed(prompt_length)
    prompt, *completions = (
        tuple(torch.randint(3, 23, (length,), generator=generator).tolist()) for length in (prompt_length, *lengths)
    )
    return [TokenSequence(prompt_token_ids=prompt, completion_token_ids=completion) for completion in completions]


@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_are_the_same_where_completions_share_their_prompt(name: str) -> None:
    subject = make_subject(name)
    rows = [*make_group(5, (3, 1, 2 * WINDOW)), *make_group(2 * WINDOW, (1, 2)), *make_sequences((6,))]
    alone = [backward(subject, [row], packing=False) for row in rows]
    expected = gradients_of(subject.model)
    loss, nll_N = backward(subject, rows, packing=True, share_prompts=True)
    torch.testing.assert_close(nll_N, torch.cat([nll for _, nll in alone]), rtol=0, atol=1e-10)
    torch.testing.assert_close(loss, torch.stack([loss for loss, _ in alone]).sum(), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients_of(subject.model), expected, rtol=1e-6, atol=1e-6)


QWEN3 = make_subject("qwen3")


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=8),
    max_tokens=st.integers(1, 60),
    packing=st.booleans(),
    chunk_tokens=st.integers(1, 20),
)
def test_no_split_padding_packing_or_chunk_changes_a_gradient(
    lengths: list[int], max_tokens: int, packing: bool, chunk_tokens: int
) -> None:
    rows = make_sequences(lengths)
    whole, _ = backward(QWEN3, rows, packing=False)
    expected = gradients_of(QWEN3.model)
    parts = [
        backward(QWEN3, [rows[index] for index in indices], packing=packing, chunk_tokens=chunk_tokens)[0]
        for indices in plan_microbatches(rows, max_tokens, packing=packing)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients_of(QWEN3.model), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_attention_is_the_models_own_beyond_its_window(name: str) -> None:
    model = make_model(name)
    ids_BT = torch.randint(3, 23, (2, 4 * WINDOW), generator=torch.Generator().manual_seed(1))
    model.set_attn_implementation("eager")
    expected_BTV = model(input_ids=ids_BT, use_cache=False).logits
    SplitModel(model, "a folder")
    assert model.config._attn_implementation == IMPLEMENTATION
    torch.testing.assert_close(model(input_ids=ids_BT, use_cache=False).logits, expected_BTV, rtol=0, atol=1e-5)


@torch.no_grad()
def test_gemma2_caps_its_attention_which_transformers_own_fused_attention_does_not() -> None:
    model = make_model("gemma2")
    ids_BT = torch.randint(3, 23, (1, 8), generator=torch.Generator().manual_seed(1))
    model.set_attn_implementation("sdpa")
    uncapped_BTV = model(input_ids=ids_BT, use_cache=False).logits
    SplitModel(model, "a folder")
    assert float((model(input_ids=ids_BT, use_cache=False).logits - uncapped_BTV).abs().max()) > 0.1


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("places", [range(10), [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]], ids=["apart", "shared"])
def test_the_kernel_for_packed_rows_on_cuda_takes_what_it_is_given(window: int | None, places: Sequence[int]) -> None:
    """On tensors without values: shapes and arguments are checked in both directions, where there is no such device."""
    query_1ATD, key_1GTD, value_1GTD = (
        torch.empty(1, num_heads, 10, 32, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for num_heads in (8, 2, 2)
    )
    attention = Attention(scale=0.1, window=window, softcap=None)
    packed_row = PackedRow.of(places, (3, len(places) - 3), 10).to(torch.device("meta"))
    attended_1TAD = attention.flash(query_1ATD, key_1GTD, value_1GTD, packed_row)
    assert attended_1TAD.shape == (1, 10, 8, 32)
    torch.autograd.backward(attended_1TAD.sum())
    assert key_1GTD.grad is not None and key_1GTD.grad.shape == key_1GTD.shape


SMALL = {name: value for name, value in SIZES.items() if name != "head_dim"}


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=24, hidden_size=16, num_hidden_layers=2),
        Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
    ],
    ids=["mamba", "lfm2"],
)
def test_models_with_other_layers_than_attention_are_refused(config: Any) -> None:
    split = SplitModel(AutoModelForCausalLM.from_config(config).eval(), "a folder")
    with pytest.raises(ConfigError, match=r"a folder .* cannot keep packed sequences apart.*sft\.packing"):
        split.require_packing()


def test_noise_is_that_of_each_sequence_however_they_lie() -> None:
    lengths = [5, 1, 7]
    noise = EmbeddingNoise(alpha=5.0, seeds=(1, 2, 3))
    padded_BTD = noise.sample(lengths, torch.zeros(3, 7, 4))
    packed_1TD = noise.sample(lengths, torch.zeros(1, 13, 4))
    expected = torch.cat([padded_BTD[row, :length] for row, length in enumerate(lengths)])
    assert torch.equal(packed_1TD[0], expected)


@pytest.mark.parametrize("changes", [{}, {"neftune_alpha": 5.0}])
def test_a_packed_run_trains_like_a_padded_one(
    model_folder: Path, ten_pairs: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    losses = []
    for packing in (False, True):
        trainer = make_trainer(model_folder)
        spec = make_sft_spec(ten_pairs, packing=packing, max_tokens_per_microbatch=12, **changes)
        trainer.prepare_sft(spec, str(tmp_path / str(packing)))
        done = trainer.sft_steps(max_steps=100, max_seconds=100.0).steps
        losses.append([metrics.values["sft/loss"] for metrics in done])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
