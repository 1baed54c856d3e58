"""What data become before a run: samples as tokens, lengths, counts, digests."""

from service.contract.spec import ExperimentSpec
from service.contract.strict_model import WireModel

SHOWN_TOKENS = 4096
"""Of one sample."""


class PreviewRequest(WireModel):
    """What to look at."""

    spec: ExperimentSpec
    num_samples: int
    """Shown of each data set."""
    max_records: int
    """Read of each source."""


class PreviewedSample(WireModel):
    """One sample as the model reads it."""

    tokens: list[str]
    """Text of each token, special ones included; the first 4,096."""
    is_trained: list[bool]
    """For each of these tokens. None of a prompt is."""
    num_tokens: int
    num_trained_tokens: int
    answer: str | None = None
    """The gold answer of a prompt."""


class LengthHistogram(WireModel):
    """Tokens of the samples, in bins of equal width from 0 on; the last bin ends with the longest."""

    bin_width: int
    counts: list[int]
    median: int
    longest: int


class DataSetPreview(WireModel):
    """One data set of a specification."""

    name: str
    """`sft`, `rl`, `evaluation`, or one of `evaluation.further_sets.0`, …"""
    path: str
    is_complete: bool
    """Whether all records were read; if not, numbers and digests are those of the part that was."""
    num_records: int
    num_samples: int
    """That would be trained, or asked."""
    num_held_out: int = 0
    num_dropped: int = 0
    num_truncated: int = 0
    lengths: LengthHistogram
    """Of all samples, those that are too long included."""
    samples: list[PreviewedSample]
    refusals: list[str] = []
    """Why a run would not begin with these data."""
    data_sha256: str | None = None
    tokenizer_sha256: str | None = None
    template_sha256: str | None = None
    lineage_sha256: str | None = None
    """Digests are those that the SFT stage puts into its result; None for prompts."""


class DataPreview(WireModel):
    """Every data set of a specification."""

    data_sets: list[DataSetPreview]


class PreviewReply(WireModel):
    """What the previewing process answers: one of the two."""

    preview: DataPreview | None = None
    config_error: str | None = None
    """Why the data, the tokenizer or the template cannot be used."""
