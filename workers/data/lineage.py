"""Digests of what samples are made of: equal digests mean equal samples, on any machine and from any file format."""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypedDict

from transformers import PreTrainedTokenizerBase

from service.contract.records import Conversation, TextPair


class LineageFacts(TypedDict):
    """For plans and previews."""

    data_sha256: str
    tokenizer_sha256: str
    template_sha256: str | None
    lineage_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLineage:
    """SHA-256 of the records, the tokenizer and the chat template, hexadecimal."""

    data_sha256: str
    """Over the texts that were read, in order; the file's format has no part in it."""
    tokenizer_sha256: str
    template_sha256: str | None
    """Over template, system prompt and variables; None where all records are plain text."""

    @property
    def lineage_sha256(self) -> str:
        """Of all three."""
        return sha256(f"{self.data_sha256} {self.tokenizer_sha256} {self.template_sha256}".encode()).hexdigest()

    def as_facts(self) -> LineageFacts:
        """All four digests by name."""
        return LineageFacts(
            data_sha256=self.data_sha256,
            tokenizer_sha256=self.tokenizer_sha256,
            template_sha256=self.template_sha256,
            lineage_sha256=self.lineage_sha256,
        )


@dataclass(frozen=True, slots=True)
class RecordDigest:
    """Digest of records in their order."""

    _sha256: Any = field(default_factory=sha256)

    def add(self, record: TextPair | Conversation) -> None:
        """One more record."""
        self._sha256.update(_canonical(record).encode() + b"\n")

    def hexdigest(self) -> str:
        """Of all records so far."""
        return str(self._sha256.hexdigest())


def prompt_fraction(record: TextPair | Conversation) -> float:
    """A number in [0, 1) that follows from the record's prompt alone: all before the assistant's first turn."""
    if isinstance(record, TextPair):
        prompt = json.dumps(record.prompt)
    else:
        first = next(index for index, message in enumerate(record) if message.role == "assistant")
        prompt = _canonical(record[:first])
    return int.from_bytes(sha256(prompt.encode()).digest()[:6], "big") / 2**48


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of vocabulary, merges, normalisation and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        described: dict[str, Any] = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    else:
        # Padding and truncation are settings of the last call, not of the tokenizer.
        described = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    described["special_tokens"] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def combined_sha256(digests: list[str]) -> str:
    """One digest for several sources in their order; that of a single one is its own."""
    return digests[0] if len(digests) == 1 else sha256(" ".join(digests).encode()).hexdigest()


def _canonical(record: TextPair | Conversation) -> str:
    if isinstance(record, TextPair):
        return json.dumps([record.prompt, record.completion])
    return json.dumps([{message.role: message.content} for message in record])
