"""Many token sequences in a few flat arrays: four bytes a token, where tuples of Python integers take forty."""

from array import array
from collections.abc import Sequence
from hashlib import sha256
from typing import overload

from workers.data.token_sequence import TokenSequence


class TokenStore(Sequence[TokenSequence]):
    """Grows at the end; a sequence is put together when it is asked for."""

    def __init__(self) -> None:
        self._token_ids = array("i")
        self._is_trained = bytearray()
        """One byte a token, 0 in prompts."""
        self._ends = array("q", [0])
        """Where each sequence ends, and before the first one 0."""
        self._num_prompt_tokens = array("i")

    def append(self, sequence: TokenSequence) -> None:
        """Keeps one more sequence."""
        num_prompt, num_completion = len(sequence.prompt_token_ids), len(sequence.completion_token_ids)
        self._token_ids.extend(sequence.prompt_token_ids)
        self._token_ids.extend(sequence.completion_token_ids)
        self._is_trained.extend(bytes(num_prompt))
        self._is_trained.extend(bytes(sequence.is_trained or b"\1" * num_completion))
        self._ends.append(len(self._token_ids))
        self._num_prompt_tokens.append(num_prompt)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences together."""
        return len(self._token_ids)

    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [end - begin for begin, end in zip(self._ends, self._ends[1:], strict=False)]

    def digest(self) -> str:
        """SHA-256 over all tokens, and over where sequences, prompts and trained tokens lie."""
        digest = sha256()
        for part in (self._token_ids, self._is_trained, self._ends, self._num_prompt_tokens):
            digest.update(memoryview(part))
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._num_prompt_tokens)

    @overload
    def __getitem__(self, index: int) -> TokenSequence: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[TokenSequence]: ...

    def __getitem__(self, index: int | slice) -> TokenSequence | Sequence[TokenSequence]:
        if isinstance(index, slice):
            return [self._sequence(position) for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._sequence(index % len(self))

    def _sequence(self, position: int) -> TokenSequence:
        begin, end = self._ends[position], self._ends[position + 1]
        completion = begin + self._num_prompt_tokens[position]
        is_trained = tuple(map(bool, self._is_trained[completion:end]))
        return TokenSequence(
            prompt_token_ids=tuple(self._token_ids[begin:completion]),
            completion_token_ids=tuple(self._token_ids[completion:end]),
            is_trained=None if all(is_trained) else is_trained,
        )
