"""Supervised samples, and which of them make up an optimizer step."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from service.contract.stages import SftSpec
from workers.config_error import ConfigError
from workers.data.length_limit import LengthLimit
from workers.data.lineage import DataLineage, combined_sha256, tokenizer_sha256
from workers.data.sample_order import epoch_permutation
from workers.data.supervised_source import SupervisedSource
from workers.data.token_sequence import TokenSequence
from workers.data.token_store import TokenStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SftDataset:
    """Tokenized samples in the order of their records."""

    samples: TokenStore
    """Trained."""
    held_out: TokenStore
    """Not trained, measured on: at most `num_eval_samples`."""
    num_records: int
    """Of `data`, held-out ones included. A record is one sample, or several; see `workers.data.chat_template`."""
    num_held_out: int
    """Samples that are not trained, measured or not."""
    num_dropped: int
    """Samples beyond `max_length`, left out; those of `eval_data` count too."""
    num_truncated: int
    """Samples beyond `max_length`, cut; those of `eval_data` count too."""
    lineage: DataLineage
    lengths: Sequence[int]
    """Tokens of every sample of `data`, whatever has become of it."""
    is_cut_short: bool = False
    """Whether the sources hold more records than were read."""

    def digest(self) -> str:
        """SHA-256 over the trained tokens: tells whether a resumed run still trains on the same data."""
        return self.samples.digest()

    def num_steps_per_epoch(self, batch_size: int) -> int:
        """Optimizer steps of an epoch; the last one may hold fewer samples."""
        return -(-len(self.samples) // batch_size)

    def batch(self, step: int, *, batch_size: int, seed: int) -> list[TokenSequence]:
        """The samples of a step (from 1): each epoch visits every sample once, in an order of its own."""
        epoch, position = divmod(step - 1, self.num_steps_per_epoch(batch_size))
        order = epoch_permutation(len(self.samples), seed=seed, stream="sft order", epoch=epoch)
        return [self.samples[index] for index in order[position * batch_size : (position + 1) * batch_size]]


def load_sft_dataset(spec: SftSpec, tokenizer: PreTrainedTokenizerBase) -> SftDataset:
    """Read, render and tokenize the supervised records, hold some of them out, and shorten those that are too long.

    Raises ConfigError for records that cannot be used, for too many samples beyond `max_length`, and if nothing is left
    to train or to measure on.
    """
    dataset, refusals = read_sft_data(spec, tokenizer)
    if refusals:
        raise ConfigError("; ".join(refusals))
    return dataset


def read_sft_data(
    spec: SftSpec, tokenizer: PreTrainedTokenizerBase, *, max_records: int | None = None
) -> tuple[SftDataset, list[str]]:
    """The data set of the first `max_records` of each source (None: all), and why it cannot be trained on, if so.

    Raises ConfigError for records that cannot be used.
    """
    reading = _Reading(spec, tokenizer, max_records)
    reading.read_data()
    if spec.eval_data is not None:
        reading.read_eval_data()
    return reading.dataset(), reading.refusals()


class _Reading:
    """One pass over the sources."""

    def __init__(self, spec: SftSpec, tokenizer: PreTrainedTokenizerBase, max_records: int | None) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        wanted = [data for data in (spec.data, spec.eval_data) if data is not None]
        self._sources = [SupervisedSource(data, tokenizer, max_records) for data in wanted]
        self._limits = [LengthLimit(spec, data) for data in wanted]
        self._samples = TokenStore()
        self._held_out = TokenStore()
        self._num_held_out = 0

    def read_data(self) -> None:
        for record in self._sources[0]:
            is_held_out = record.prompt_fraction < self._spec.holdout_fraction
            for sample in record.samples:
                fitting = self._limits[0].fit(sample, record.place)
                if fitting is not None and is_held_out:
                    self._hold_out(fitting)
                elif fitting is not None:
                    self._samples.append(fitting)

    def read_eval_data(self) -> None:
        for record in self._sources[1]:
            for sample in record.samples:
                if (fitting := self._limits[1].fit(sample, record.place)) is not None:
                    self._hold_out(fitting)

    def dataset(self) -> SftDataset:
        templates = [source.template.sha256() for source in self._sources if source.template is not None]
        return SftDataset(
            samples=self._samples,
            held_out=self._held_out,
            num_records=self._sources[0].num_records,
            num_held_out=self._num_held_out,
            num_dropped=sum(limit.num_dropped for limit in self._limits),
            num_truncated=sum(limit.num_truncated for limit in self._limits),
            lineage=DataLineage(
                data_sha256=combined_sha256([source.data_sha256 for source in self._sources]),
                tokenizer_sha256=tokenizer_sha256(self._tokenizer),
                template_sha256=combined_sha256(templates) if templates else None,
            ),
            lengths=self._limits[0].lengths,
            is_cut_short=any(source.is_cut_short for source in self._sources),
        )

    def refusals(self) -> list[str]:
        refusals = [refusal for limit in self._limits if (refusal := limit.refusal()) is not None]
        if refusals:
            return refusals
        share = self._spec.holdout_fraction
        if not len(self._samples):
            refusals.append(f"sft.holdout_fraction {share:g} leaves no sample to train; lower it or add records")
        if share and not self._num_held_out:
            refusals.append(
                f"sft.holdout_fraction {share:g} holds out none of {self._sources[0].num_records} records; raise it, "
                "or give eval_data"
            )
        return refusals

    def _hold_out(self, sample: TokenSequence) -> None:
        self._num_held_out += 1
        if self._spec.num_eval_samples is None or len(self._held_out) < self._spec.num_eval_samples:
            self._held_out.append(sample)
