"""Prompts with gold answers, and which of them a reinforcement learning step asks."""

from transformers import PreTrainedTokenizerBase

from service.contract.data import PromptData
from workers.config_error import ConfigError
from workers.data.json_lines import read_rows
from workers.data.sample_order import epoch_permutation
from workers.data.tokenization import tokenize_prompts
from workers.rollouts import Prompt


def load_prompts(
    spec: PromptData, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int, limit: int | None = None
) -> list[Prompt]:
    """The first `limit` prompts of the file (all if None), tokenized.

    `max_prompt_tokens` is what the engine has room for beside a completion. Raises ConfigError, naming the line, for
    unreadable rows and for prompts that have no token or too many.
    """
    rows = read_rows(spec.path, (spec.prompt_field, spec.answer_field), limit)
    token_ids = tokenize_prompts(tokenizer, [row.values[0] for row in rows])
    for row, ids in zip(rows, token_ids, strict=True):
        if not 1 <= len(ids) <= max_prompt_tokens:
            raise ConfigError(
                f"{spec.path}, line {row.line_index + 1}: the prompt has {len(ids)} tokens, but 1 to "
                f"{max_prompt_tokens} fit beside the longest completion; shorten it, drop the row, or change "
                "model.max_model_len or max_completion_length"
            )
    return [
        Prompt(uid=row.line_index, text=row.values[0], token_ids=tuple(ids), answer=row.values[1])
        for row, ids in zip(rows, token_ids, strict=True)
    ]


def prompt_indices_for_step(num_prompts: int, num_prompts_per_step: int, step: int, seed: int) -> list[int]:
    """Indices into the list of prompts for a step (from 1), [num_prompts_per_step].

    Steps walk through one permutation after the other without a gap, so every prompt comes once before any comes again;
    a step may lie across two permutations, and then a prompt may stand in it twice.
    """
    if num_prompts < 1 or step < 1:
        raise ValueError(f"step {step} of {num_prompts} prompts: both must be at least 1")
    start = (step - 1) * num_prompts_per_step
    end = start + num_prompts_per_step
    indices: list[int] = []
    for epoch in range(start // num_prompts, (end - 1) // num_prompts + 1):
        order = epoch_permutation(num_prompts, seed=seed, stream="rl order", epoch=epoch)
        first = epoch * num_prompts
        indices += order[max(start - first, 0) : end - first]
    return indices
