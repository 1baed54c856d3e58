"""Records of a supervised data set on their way to tokens, some hundred at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from service.contract.data import SupervisedData
from service.contract.records import Conversation, RecordFault, TextPair, read_supervised
from workers.config_error import ConfigError
from workers.data.chat_template import ChatTemplate, NotRenderable, Segment
from workers.data.lineage import RecordDigest, prompt_fraction
from workers.data.sources import Record, read_records, where
from workers.data.token_sequence import TokenSequence
from workers.data.tokenization import tokenize_completions, tokenize_prompts, tokenize_segments, trained_sequence

_RECORDS_AT_ONCE = 512
"""Enough to keep a tokenizer's threads busy, few enough to cost no memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedRecord:
    """One record with its samples: one, or several where a chat template alters earlier turns."""

    place: int
    prompt_fraction: float
    """In [0, 1), by the prompt alone; decides about holding out."""
    samples: tuple[TokenSequence, ...]


class SupervisedSource:
    """Reads, renders and tokenizes the records of one data set, and keeps account of what it has read."""

    def __init__(
        self, data: SupervisedData, tokenizer: PreTrainedTokenizerBase, max_records: int | None = None
    ) -> None:
        """Raises ConfigError if the records are conversations that the tokenizer's template cannot render."""
        self.data = data
        self._tokenizer = tokenizer
        self._max_records = max_records
        self._digest = RecordDigest()
        chat = data.chat_in_effect
        self.template = None if chat is None else ChatTemplate(tokenizer, chat)
        self.num_records = 0
        self.is_cut_short = False
        """Whether there are further records beyond `max_records`."""

    @property
    def data_sha256(self) -> str:
        """Digest of the texts read so far."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[TokenizedRecord]:
        """Raises ConfigError, naming the row, for a record that cannot be used."""
        records = read_records(self.data, self._keys())
        while chunk := list(islice(records, self._room())):
            yield from self._tokenized(chunk)
        self.is_cut_short = next(records, None) is not None

    def _room(self) -> int:
        left = _RECORDS_AT_ONCE if self._max_records is None else self._max_records - self.num_records
        return min(left, _RECORDS_AT_ONCE)

    def _keys(self) -> tuple[str, ...]:
        match self.data.records:
            case "messages":
                return (self.data.messages_field,)
            case "question_answer":
                return (self.data.question_field, self.data.answer_field)
            case "prompt_completion":
                return (self.data.prompt_field, self.data.completion_field)

    def _tokenized(self, chunk: Sequence[Record]) -> Iterator[TokenizedRecord]:
        texts = [self._read(record) for record in chunk]
        rows = self._tokenize_pairs(texts) if self.template is None else self._tokenize_chats(chunk, texts)
        for record, text, samples in zip(chunk, texts, rows, strict=True):
            self._require_tokens(record, samples)
            self._digest.add(text)
            self.num_records += 1
            yield TokenizedRecord(place=record.place, prompt_fraction=prompt_fraction(text), samples=samples)

    def _read(self, record: Record) -> TextPair | Conversation:
        try:
            return read_supervised(record.fields, self.data)
        except RecordFault as fault:
            raise ConfigError(f"{where(self.data, record.place)}: {fault}; {fault.hint}") from fault

    def _tokenize_pairs(self, texts: Sequence[TextPair | Conversation]) -> list[tuple[TokenSequence, ...]]:
        pairs = [text for text in texts if isinstance(text, TextPair)]
        prompts = tokenize_prompts(self._tokenizer, [pair.prompt for pair in pairs])
        completions = tokenize_completions(self._tokenizer, [pair.completion for pair in pairs])
        return [
            (TokenSequence(prompt_token_ids=tuple(prompt), completion_token_ids=tuple(completion)),)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def _tokenize_chats(
        self, chunk: Sequence[Record], texts: Sequence[TextPair | Conversation]
    ) -> list[tuple[TokenSequence, ...]]:
        rendered = [self._render(record, text) for record, text in zip(chunk, texts, strict=True)]
        flat = [sample for samples in rendered for sample in samples]
        sequences = map(trained_sequence, flat, tokenize_segments(self._tokenizer, flat))
        return [tuple(islice(sequences, len(samples))) for samples in rendered]

    def _render(self, record: Record, text: TextPair | Conversation) -> list[tuple[Segment, ...]]:
        assert self.template is not None and not isinstance(text, TextPair), "conversations come with a template"
        try:
            return self.template.samples(text)
        except NotRenderable as error:
            raise ConfigError(f"{where(self.data, record.place)}: {error}") from error

    def _require_tokens(self, record: Record, samples: Sequence[TokenSequence]) -> None:
        for sample in samples:
            # An end token alone would teach the model to say nothing.
            for part, num_tokens, least in (
                ("prompt", len(sample.prompt_token_ids), 1),
                ("completion", sample.num_labels, 2),
            ):
                if num_tokens < least:
                    raise ConfigError(
                        f"{where(self.data, record.place)}: the {part} has no tokens under this tokenizer; check that "
                        "the tokenizer fits the data or drop the row"
                    )
