"""What the RL benchmarks train: models whose completions have geometric lengths, prompts, and the same run for peers.

A workload is a folder, so that programs in other interpreters can train it too:

    model/          config, weights and a tokenizer whose words are `w0`, `w1`, ...
    prompts.jsonl   prompts with an answer that no reward looks at
    spec.json       the `ExperimentSpec`
    peer.json       the sizes of a step for programs that do not read specifications

Lengths come from the model itself, so they are the same for everyone: whatever stands before, the end-of-sequence token
has the same probability. All embeddings share a large first coordinate, which the last norm makes a constant, and
of the output layer's rows only the end-of-sequence token's looks at it.
"""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from service.contract.data import PromptData
from service.contract.resources import ResourcesSpec, RolloutResources, TrainerResources
from service.contract.rewards import RegexReward
from service.contract.spec import ExperimentSpec, ModelSpec
from service.contract.stages import OptimizerSpec, RlSpec

SEED = 0
NUM_PROMPTS, NUM_GENERATIONS = 32, 8
MAX_COMPLETION, MEAN_COMPLETION = 128, 40
"""Tokens, end-of-sequence included."""
MAX_MODEL_LEN = 256
REWARD_PATTERN = "[02468]$"
"""Completions whose last word has an even number: half of them, by chance, so that every group has a signal."""
LEARNING_RATE = 1e-9
"""So small that the lengths stay what they are: at 1e-6 the larger model's grow by half within ten steps."""
_SPECIAL = ["<pad>", "<eos>", "<unk>"]
_PAD, _EOS = 0, 1
_SHARED = 1.0
"""First coordinate of each embedding: far above the others and what the layers add, which are around 0.02."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Of a Qwen3 with an output layer of its own."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    """Of queries; half as many of keys and values."""


SIZES = {
    "600k": ModelSize(vocabulary=70, hidden=128, intermediate=384, layers=3, heads=4),
    "18m": ModelSize(vocabulary=4096, hidden=384, intermediate=1216, layers=8, heads=6),
}
"""0.61 and 17.9 million parameters."""


def write_rl_workload(
    folder: Path,
    size: ModelSize,
    *,
    num_steps: int,
    threads: int = 1,
    num_prompts: int = NUM_PROMPTS,
    num_generations: int = NUM_GENERATIONS,
) -> ExperimentSpec:
    """Write a workload and return its specification. Each step has prompts of its own."""
    write_model(folder / "model", size)
    _write_prompts(folder / "prompts.jsonl", size, num_steps * num_prompts)
    rl = RlSpec(
        data=PromptData(path=str(folder / "prompts.jsonl")),
        reward=RegexReward(pattern=REWARD_PATTERN),
        optimizer=OptimizerSpec(learning_rate=LEARNING_RATE),
        num_steps=num_steps,
        num_prompts_per_step=num_prompts,
        num_generations=num_generations,
        max_completion_length=MAX_COMPLETION,
        save_steps=num_steps,
    )
    spec = ExperimentSpec(
        name="bench-rl",
        seed=SEED,
        model=ModelSpec(path=str(folder / "model"), max_model_len=MAX_MODEL_LEN),
        rl=rl,
        resources=ResourcesSpec(
            trainer=TrainerResources(num_cpus=threads),
            rollout=RolloutResources(num_cpus=threads),
            # In step they work by turns anyway.
            placement="colocated",
        ),
    )
    (folder / "spec.json").write_text(spec.model_dump_json(indent=2))
    (folder / "peer.json").write_text(json.dumps(_for_peer(rl)))
    return spec


def write_model(folder: Path, size: ModelSize) -> None:
    """A model whose completions have `MEAN_COMPLETION` tokens in the mean at temperature 1, cut at `MAX_COMPLETION`."""
    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 2,
        head_dim=size.hidden // size.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        eos_token_id=_EOS,
        pad_token_id=_PAD,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = _SHARED
        output = model.get_output_embeddings().weight
        output[:, 0] = 0.0
        output[_EOS] = 0.0
        output[_EOS, 0] = _logit(end_probability(), size.vocabulary) / _shared_after_norm(model, size)
    disable_progress_bar()
    model.save_pretrained(folder)
    words = [*_SPECIAL, *(f"w{number}" for number in range(size.vocabulary - len(_SPECIAL)))]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def _shared_after_norm(model: Qwen3ForCausalLM, size: ModelSize) -> float:
    """The first coordinate of the output layer's input: close to sqrt(hidden), whatever the tokens."""
    tokens_BT = torch.randint(len(_SPECIAL), size.vocabulary, (4, 64))
    return float(model.model(tokens_BT).last_hidden_state[..., 0].mean())


def end_probability(mean: float = MEAN_COMPLETION, longest: int = MAX_COMPLETION) -> float:
    """The p for which a geometric length, cut at `longest`, has this mean: (1 - (1 - p)^longest) / p, by bisection."""
    low, high = 1e-6, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if (1 - (1 - p) ** longest) / p > mean else (low, p)
    return (low + high) / 2


def _logit(probability: float, vocabulary: int) -> float:
    """Of one token among others whose logits are about 0."""
    return math.log(probability / (1 - probability) * (vocabulary - 1))


def _write_prompts(path: Path, size: ModelSize, count: int) -> None:
    drawn = random.Random(SEED)

    def words() -> str:
        return " ".join(f"w{drawn.randrange(size.vocabulary - len(_SPECIAL))}" for _ in range(drawn.randint(12, 36)))

    path.write_text("".join(json.dumps({"prompt": words(), "answer": "any"}) + "\n" for _ in range(count)))


def _for_peer(rl: RlSpec) -> dict[str, float | int | str]:
    return {
        "num_steps": rl.num_steps,
        "num_prompts": rl.num_prompts_per_step,
        "num_generations": rl.num_generations,
        "max_completion_length": rl.max_completion_length,
        "max_model_len": MAX_MODEL_LEN,
        "learning_rate": rl.optimizer.learning_rate,
        "epsilon_low": rl.epsilon_low,
        "epsilon_high": rl.epsilon_high,
        "reward_pattern": REWARD_PATTERN,
        "seed": SEED,
    }
