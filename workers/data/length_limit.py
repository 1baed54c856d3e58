"""What happens to samples that are longer than `sft.max_length`, and when there are too many of them."""

from array import array

from service.contract.data import SupervisedData
from service.contract.stages import SftSpec
from workers.data.sources import where
from workers.data.token_sequence import TokenSequence


class LengthLimit:
    """Drops or cuts samples of one source as the specification says, and counts them."""

    def __init__(self, spec: SftSpec, data: SupervisedData) -> None:
        self._spec = spec
        self._data = data
        self.lengths = array("i")
        """Tokens of every sample, those that are too long included."""
        self.num_overlong = 0
        self.num_dropped = 0
        self.num_truncated = 0
        self._first_place = 0

    @property
    def num_samples(self) -> int:
        """Samples seen."""
        return len(self.lengths)

    def fit(self, sample: TokenSequence, place: int) -> TokenSequence | None:
        """The sample within the limit, or None if it is left out."""
        self.lengths.append(sample.num_tokens)
        if sample.num_tokens <= self._spec.max_length:
            return sample
        if not self.num_overlong:
            self._first_place = place
        self.num_overlong += 1
        kept = truncated(sample, self._spec.max_length) if self._spec.overlong == "truncate" else None
        if kept is None:
            self.num_dropped += 1
        else:
            self.num_truncated += 1
        return kept

    def refusal(self) -> str | None:
        """Why these data cannot be trained on under this limit; None if they can."""
        if not self.num_overlong:
            return None
        if self._spec.overlong == "error":
            further = " or set overlong to 'drop' or 'truncate'" if self.num_overlong < self.num_samples else ""
            return f"{self._counted()}; raise max_length to {max(self.lengths)}{further}"
        if self.num_dropped == self.num_samples:
            return f"{self._counted()}, so none is left; raise max_length to {max(self.lengths)}"
        fraction = self.num_overlong / self.num_samples
        if fraction > self._spec.max_overlong_fraction:
            return (
                f"{self._counted()}; that is {fraction:.1%}, more than max_overlong_fraction "
                f"{self._spec.max_overlong_fraction:g} allows; raise max_length, or the fraction if it is meant"
            )
        return None

    def _counted(self) -> str:
        first, longest = where(self._data, self._first_place).rpartition(", ")[2], max(self.lengths)
        return (
            f"{self.num_overlong} of {self.num_samples} samples in {self._data.path} exceed sft.max_length "
            f"{self._spec.max_length} (first in {first}; the longest has {longest} tokens, end token included)"
        )


def truncated(sample: TokenSequence, max_length: int) -> TokenSequence | None:
    """The sample without its end, up to its last trained token within the limit; None if it has none there."""
    room = max_length - len(sample.prompt_token_ids)
    if room < 1:
        return None
    is_trained = None if sample.is_trained is None else sample.is_trained[:room]
    if is_trained is not None:
        room = max((index + 1 for index, trained in enumerate(is_trained) if trained), default=0)
        is_trained = is_trained[:room]
    return TokenSequence(
        prompt_token_ids=sample.prompt_token_ids,
        completion_token_ids=sample.completion_token_ids[:room],
        is_trained=None if is_trained is None or all(is_trained) else is_trained,
    )
