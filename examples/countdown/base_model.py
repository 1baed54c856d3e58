"""The task's base model: a small Qwen3 pretrained on random legal traces, so it knows the form and many ways to answer.

Qwen3 rather than Qwen2 because ``AutoTokenizer`` of the pinned transformers replaces the tokenizer of every Qwen2
folder by Qwen2's own byte-level one.
"""

import math
import random
from collections.abc import Callable
from pathlib import Path

import torch
from task import legal_traces, prompt_text
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
from words import EOS, MAX_POSITIONS, PAD, VOCABULARY

from service.contract.gold_answers import MAX_COUNTDOWN_VALUE, CountdownGold

NUM_STEPS = 600
BATCH_SIZE = 256
PEAK_LR = 3e-3
NUM_WARMUP_STEPS = 100
FINAL_LR_FRACTION = 0.05

_TOKEN_IDS = {word: position for position, word in enumerate(VOCABULARY)}
_NUM_PROMPT_TOKENS = 6
_TARGET = 4
"""Its place in a prompt: three numbers, an arrow, the target, a colon."""


def build_model(seed: int) -> Qwen3ForCausalLM:
    """About 0.2 M parameters: width 64, three layers, two heads of 32, tied embeddings, float32."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=_TOKEN_IDS[EOS],
        pad_token_id=_TOKEN_IDS[PAD],
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def pretrain(
    model: Qwen3ForCausalLM,
    problems: list[CountdownGold],
    seed: int,
    traces: Callable[[CountdownGold], list[str]] = legal_traces,
    num_aimless: int = 0,
) -> None:
    """Next-token training on the completions only; each row a random problem, number order and one of its `traces`.

    `num_aimless` rows of a batch hold a legal trace, whatever its operations, under a prompt with a random target: they
    teach how to calculate and not what for. Problems without one of the `traces` stand in such rows only.

    AdamW with linear warm-up and cosine decay. Same machine, thread count and seed give the same weights.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    aimed = [_encoded_traces(problem, shown) for problem in problems if (shown := traces(problem))]
    aimless = [_encoded_traces(problem, legal_traces(problem)) for problem in problems if num_aimless]
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step in range(NUM_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step)
        rows = rng.choices(aimed, k=BATCH_SIZE - num_aimless)
        rows += rng.choices(aimless, k=num_aimless) if num_aimless else []
        batch_BT = torch.stack([row[rng.randrange(len(row))] for row in rows])
        if num_aimless:
            targets = rng.choices(range(1, MAX_COUNTDOWN_VALUE + 1), k=num_aimless)
            batch_BT[-num_aimless:, _TARGET] = torch.tensor([_TOKEN_IDS[str(target)] for target in targets])
        order_BN = torch.rand(BATCH_SIZE, 3, generator=generator).argsort(1)
        batch_BT[:, :3] = batch_BT[:, :3].gather(1, order_BN)
        loss = _completion_loss(model, batch_BT)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def write_model(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Weights as safetensors, configuration, and a generation configuration with the end and padding ids."""
    ids = {"eos_token_id": _TOKEN_IDS[EOS], "pad_token_id": _TOKEN_IDS[PAD]}
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)


def _encoded_traces(problem: CountdownGold, traces: list[str]) -> Tensor:
    prompt = prompt_text(problem)
    texts = [f"{prompt} {trace} {EOS}" for trace in traces]
    return torch.tensor([[_TOKEN_IDS[word] for word in text.split()] for text in texts])


def _completion_loss(model: Qwen3ForCausalLM, batch_BT: Tensor) -> Tensor:
    logits_BTV = model(input_ids=batch_BT, use_cache=False).logits[:, _NUM_PROMPT_TOKENS - 1 : -1]
    return functional.cross_entropy(logits_BTV.flatten(0, 1), batch_BT[:, _NUM_PROMPT_TOKENS:].flatten())


def _learning_rate(step: int) -> float:
    warm_up = min(1.0, (step + 1) / NUM_WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * step / NUM_STEPS))
    return PEAK_LR * warm_up * (FINAL_LR_FRACTION + (1 - FINAL_LR_FRACTION) * cosine)
