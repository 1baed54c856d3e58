"""Prompts with gold answers, and which of them a reinforcement learning step asks."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from transformers import PreTrainedTokenizerBase

from service.contract.data import PromptData
from service.contract.records import Conversation, RecordFault, lacks_answer, read_prompt
from workers.config_error import ConfigError
from workers.data.chat_template import ChatTemplate, NotRenderable
from workers.data.sample_order import epoch_permutation
from workers.data.sources import Record, read_records, where
from workers.data.tokenization import tokenize_prompts, tokenize_segments
from workers.rollouts import Prompt


def load_prompts(
    spec: PromptData, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int, limit: int | None = None
) -> list[Prompt]:
    """The first `limit` prompts (all if None), rendered where there is a chat, and tokenized.

    A prompt has exactly the tokens that SFT puts before the answer of the same conversation. `max_prompt_tokens` is
    what the engine has room for beside a completion. Raises ConfigError, naming the row, for records that cannot be
    used and for prompts that have no token or too many.
    """
    prompts = read_prompts(spec, tokenizer, limit)
    for prompt in prompts:
        if not 1 <= len(prompt.token_ids) <= max_prompt_tokens:
            raise ConfigError(
                f"{where(spec, prompt.uid)}: the prompt has {len(prompt.token_ids)} tokens, but 1 to "
                f"{max_prompt_tokens} fit beside the longest completion; shorten it, drop the row, or change "
                "model.max_model_len or max_completion_length"
            )
    return prompts


def read_prompts(spec: PromptData, tokenizer: PreTrainedTokenizerBase, limit: int | None = None) -> list[Prompt]:
    """The same, however long they are."""
    records = list(islice(_answered(spec), limit))
    if not records:
        raise ConfigError(f"{spec.path}: no row has an answer under {spec.answer_field!r}; check answer_field")
    read = [_read(record, spec) for record in records]
    asked = [prompt for prompt, _ in read]
    texts, token_ids = _tokenize(asked, records, spec, tokenizer)
    return [
        Prompt(uid=record.place, text=text, token_ids=tuple(ids), answer=answer)
        for record, (_, answer), text, ids in zip(records, read, texts, token_ids, strict=True)
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


def _answered(spec: PromptData) -> Iterator[Record]:
    """Without the rows that nobody could judge, where the data's settings leave them out."""
    keys = (spec.prompt_field, spec.answer_field)
    return (record for record in read_records(spec, keys) if not lacks_answer(record.fields, spec))


def _read(record: Record, spec: PromptData) -> tuple[str | Conversation, str]:
    try:
        return read_prompt(record.fields, spec)
    except RecordFault as fault:
        raise ConfigError(f"{where(spec, record.place)}: {fault}; {fault.hint}") from fault


def _tokenize(
    asked: Sequence[str | Conversation], records: Sequence[Record], spec: PromptData, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[list[int]]]:
    """Texts as the model reads them, and their tokens."""
    if spec.chat is None:
        texts = [prompt for prompt in asked if isinstance(prompt, str)]
        return texts, tokenize_prompts(tokenizer, texts)
    template, rendered = ChatTemplate(tokenizer, spec.chat), []
    for prompt, record in zip(asked, records, strict=True):
        assert not isinstance(prompt, str), "with a chat, prompts are conversations"
        try:
            rendered.append(template.prompt(prompt))
        except NotRenderable as error:
            raise ConfigError(f"{where(spec, record.place)}: {error}") from error
    tokens = tokenize_segments(tokenizer, rendered)
    texts = ["".join(segment.text for segment in segments) for segments in rendered]
    return texts, [list(chain.from_iterable(segments)) for segments in tokens]
