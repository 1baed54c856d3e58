"""Supervised samples, and which of them make up an optimizer step."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from transformers import PreTrainedTokenizerBase

from service.contract.stages import SftSpec
from workers.config_error import ConfigError
from workers.data.json_lines import Row, read_rows
from workers.data.sample_order import epoch_permutation
from workers.data.token_sequence import TokenSequence
from workers.data.tokenization import tokenize_completions, tokenize_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class SftDataset:
    """Tokenized samples in file order."""

    samples: tuple[TokenSequence, ...]
    held_out: tuple[TokenSequence, ...] = ()
    """Not trained, measured on: at most `num_eval_samples`."""
    num_dropped: int
    """Samples beyond `max_length`, left out."""
    num_truncated: int = 0
    """Samples beyond `max_length`, cut."""

    def digest(self) -> str:
        """SHA-256 over all token ids: tells whether a resumed run still trains on the same data."""
        digest = sha256()
        for sample in self.samples:
            for ids in (sample.prompt_token_ids, sample.completion_token_ids, sample.is_trained or ()):
                digest.update(array("q", [len(ids), *ids]).tobytes())
        return digest.hexdigest()

    def num_steps_per_epoch(self, batch_size: int) -> int:
        """Optimizer steps of an epoch; the last one may hold fewer samples."""
        return -(-len(self.samples) // batch_size)

    def batch(self, step: int, *, batch_size: int, seed: int) -> list[TokenSequence]:
        """The samples of a step (from 1): each epoch visits every sample once, in an order of its own."""
        epoch, position = divmod(step - 1, self.num_steps_per_epoch(batch_size))
        order = epoch_permutation(len(self.samples), seed=seed, stream="sft order", epoch=epoch)
        return [self.samples[index] for index in order[position * batch_size : (position + 1) * batch_size]]

    def consumed(self, step: int, *, batch_size: int) -> dict[str, int]:
        """Where `step` leaves off: samples trained in all, and how many of them in which epoch (from 0)."""
        epoch, position = divmod(step, self.num_steps_per_epoch(batch_size))
        in_epoch = min(position * batch_size, len(self.samples))
        return {"count": epoch * len(self.samples) + in_epoch, "epoch": epoch, "in_epoch": in_epoch}


def load_sft_dataset(spec: SftSpec, tokenizer: PreTrainedTokenizerBase) -> SftDataset:
    """Read and tokenize the supervised pairs.

    Raises ConfigError for unreadable rows, for prompts without a token, for samples beyond `max_length` where
    `overlong` is `error` (with their count), and if nothing is left.
    """
    rows = read_rows(spec.data.path, (spec.data.prompt_field, spec.data.completion_field))
    prompts = tokenize_prompts(tokenizer, [row.values[0] for row in rows])
    completions = tokenize_completions(tokenizer, [row.values[1] for row in rows])
    _require_tokens(spec, rows, prompts, completions)
    samples = [
        TokenSequence(prompt_token_ids=tuple(prompt), completion_token_ids=tuple(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    fitting = tuple(sample for sample in samples if sample.num_tokens <= spec.max_length)
    num_overlong = len(samples) - len(fitting)
    if num_overlong and (spec.overlong == "error" or not fitting):
        raise _overlong_error(spec, rows, samples, num_overlong)
    return SftDataset(samples=fitting, num_dropped=num_overlong)


def _require_tokens(
    spec: SftSpec, rows: list[Row], prompts: Sequence[list[int]], completions: Sequence[list[int]]
) -> None:
    for row, prompt, completion in zip(rows, prompts, completions, strict=True):
        # A completion always has its end token; alone it would teach the model to say nothing.
        for field, ids, least in ((spec.data.prompt_field, prompt, 1), (spec.data.completion_field, completion, 2)):
            if len(ids) < least:
                raise ConfigError(
                    f"{spec.data.path}, line {row.line_index + 1}: {field!r} has no tokens under this tokenizer; "
                    "check that the tokenizer fits the data or drop the row"
                )


def _overlong_error(spec: SftSpec, rows: list[Row], samples: list[TokenSequence], num_overlong: int) -> ConfigError:
    first = next(index for index, sample in enumerate(samples) if sample.num_tokens > spec.max_length)
    longest = max(sample.num_tokens for sample in samples)
    return ConfigError(
        f"{num_overlong} of {len(samples)} samples in {spec.data.path} exceed sft.max_length {spec.max_length} "
        f"(first in line {rows[first].line_index + 1}; the longest has {longest} tokens, end token included); "
        f"raise max_length to {longest}" + (" or set overlong to 'drop'" if num_overlong < len(samples) else "")
    )
