"""Makes what the tutorial trains: `python examples/sums/make.py FOLDER` writes a tiny model, data, a specification.

The task: write a number from 2 to 20 as a sum, `9 =` -> `4 + 5`. The first number is free (flexible), the second
follows from it (rigid). The base model knows all ways; the data of SFT always show the same one.
"""

import json
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

LARGEST = 20
PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
VOCABULARY = (PAD, EOS, UNKNOWN, "+", "=", *map(str, range(LARGEST + 1)))
NUM_STEPS, BATCH_SIZE = 400, 128

SPEC = """\
name: sums-sed
tags: [tutorial]
seed: 1
model: {{path: model, max_model_len: 16}}
sft:
  data: {{path: sft.jsonl}}
  objective: {{type: sed}}
  optimizer: {{learning_rate: 5.0e-4}}
  num_epochs: 4
  batch_size: 16
  max_length: 16
  holdout_fraction: 0.2
  eval_steps: 10
rl:
  data: {{path: rl.jsonl}}
  reward: {{type: python_function, function: "reward:reward", working_dir: {folder}}}
  optimizer: {{learning_rate: 3.0e-4}}
  num_steps: 10
  num_prompts_per_step: 16
  num_generations: 8
  max_completion_length: 4
evaluation:
  data: {{path: test.jsonl}}
  reward: {{type: python_function, function: "reward:reward", working_dir: {folder}}}
  num_generations: 8
  pass_at_k: [1, 8]
  max_completion_length: 4
max_runtime_s: 900
"""


def main(folder: Path) -> None:
    """Writes all of it; seconds on a CPU."""
    rng = random.Random(0)
    tokenizer = _tokenizer()
    _pretrained(tokenizer, rng).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    totals = [rng.randint(2, LARGEST) for _ in range(200)]
    habit = [{"prompt": f"{total} =", "completion": f"{total // 2} + {total - total // 2}"} for total in totals]
    _write(folder / "sft.jsonl", habit)
    for name, count in (("rl.jsonl", 200), ("test.jsonl", 64)):
        asked = [rng.randint(2, LARGEST) for _ in range(count)]
        _write(folder / name, [{"prompt": f"{total} =", "answer": str(total)} for total in asked])
    (folder / "sed.yaml").write_text(SPEC.format(folder=json.dumps(str(Path(__file__).resolve().parent))), "utf-8")


def _tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": PAD, "eos_token": EOS, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=words, clean_up_tokenization_spaces=False, **marks)


def _pretrained(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Qwen3ForCausalLM:
    """Trained on sums whose first number is drawn at random."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(_config(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(NUM_STEPS):
        rows = [_row(rng) for _ in range(BATCH_SIZE)]
        ids_BT = torch.tensor([tokenizer.convert_tokens_to_ids(row.split()) for row in rows])
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, 1:-1]
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def _row(rng: random.Random) -> str:
    total = rng.randint(2, LARGEST)
    left = rng.randint(1, total - 1)
    return f"{total} = {left} + {total - left} {EOS}"


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32}
    marks = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    return Qwen3Config(vocab_size=len(VOCABULARY), tie_word_embeddings=True, dtype="float32", **sizes, **heads, **marks)


def _write(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
