"""One sequence of tokens, and which of them are trained."""

from dataclasses import dataclass
from itertools import compress


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """A prompt and the completion that is trained; neither is empty."""

    prompt_token_ids: tuple[int, ...]
    completion_token_ids: tuple[int, ...]
    is_trained: tuple[bool, ...] | None = None
    """For each completion token; None: all are. A conversation's completion begins with its first trained token, and
    later turns of the user lie within it."""

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_token_ids) + len(self.completion_token_ids)

    @property
    def label_token_ids(self) -> tuple[int, ...]:
        """The completion tokens that are trained."""
        if self.is_trained is None:
            return self.completion_token_ids
        return tuple(compress(self.completion_token_ids, self.is_trained))

    @property
    def num_labels(self) -> int:
        """Tokens that are trained."""
        return len(self.completion_token_ids) if self.is_trained is None else sum(self.is_trained)
