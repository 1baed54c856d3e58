"""What the trainer tells its caller: numbers and names only, so that every result travels cheaply.

Steps count from 1, everywhere: the same number goes into `prompt_indices_for_step`, `rl_step`, `save_rl` and the
metrics. A plan's `first_step` is the first one to run: 1 on a fresh start, `num_steps + 1` when nothing is left.
"""

from dataclasses import dataclass

from service.contract.messages import TokenView
from workers.checkpoints import SkippedCheckpoint


class NonFinite(Exception):
    """A loss or a gradient norm became NaN or infinite; the weights are still those before the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the caller must know about the loaded model."""

    num_parameters: int
    vocab_size: int
    """Rows of the output layer; may exceed the tokenizer's vocabulary."""
    eos_token_ids: tuple[int, ...]
    """Tokens that end a completion: what ends a turn in the data's chats, then the tokenizer's end-of-sequence token,
    then others of the generation config."""
    pad_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts in bins of equal width over [low, high]."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """The metrics of one optimizer step, by the names of the contract."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SftPlan:
    """What the supervised stage is about to do."""

    num_samples: int
    """Samples that are trained, without the dropped ones."""
    num_held_out: int
    """Samples that are not trained but held out, measured or not."""
    num_dropped: int
    """Samples left out because they exceed `max_length`."""
    num_truncated: int
    """Samples cut to `max_length`."""
    data_sha256: str
    tokenizer_sha256: str
    template_sha256: str | None
    """None where all records are plain text."""
    lineage_sha256: str
    """Of the three together: what the samples are made of."""
    num_steps: int
    first_step: int
    tau: float | None
    """SED's threshold on the top-k mass; None where the objective has none."""
    tau_histogram: Histogram | None
    """Top-k mass of the calibration tokens; None where tau was given or isn't used."""
    tau_num_tokens: int
    """Label tokens behind tau; 0 where tau was given or isn't used."""
    resumed_from: str | None
    """The checkpoint that was loaded."""
    skipped_checkpoints: tuple[SkippedCheckpoint, ...]
    carried_metrics: tuple[StepMetrics, ...] = ()
    """Of the last steps before `first_step`, from the checkpoint: perhaps nobody has reported them yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSlice:
    """What a stretch of the supervised stage leaves behind."""

    steps: tuple[StepMetrics, ...]
    """Empty when all steps were done before."""
    evaluations: tuple[StepMetrics, ...] = ()
    """On the held-out samples; the step counts those done by then, so 0 is the untrained model."""
    token_views: tuple[TokenView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCheckpoint:
    """A checkpoint and the held-out metric by which it is among the best."""

    step: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SftEnd:
    """The weights with which the supervised stage ends."""

    exported_step: int
    """The last step, or that of the best checkpoint."""
    best_checkpoints: tuple[RankedCheckpoint, ...] = ()
    """The best first, as far as they are kept."""
    skipped_best_checkpoints: tuple[SkippedCheckpoint, ...] = ()
    """Better ones than the exported that are not whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumedPrompts:
    """Which prompts a run's steps have asked: so many places of the walk through its data, which follows from these."""

    count: int
    """A prompt counts as often as the walk has come to it."""
    data_sha256: str
    """Of all prompts in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RlCarried:
    """What the driver wants kept with a checkpoint of reinforcement learning."""

    consumed_prompts: ConsumedPrompts
    untrained_groups: bytes = b""
    """Groups of later steps that are finished already, in the driver's own form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RlPlan:
    """Where the reinforcement learning stage takes up."""

    num_steps: int
    first_step: int
    num_tokens: int
    """Completion tokens that the stage has trained before `first_step`."""
    policy_version: int
    """As given to `save_rl`; 0 on a fresh start."""
    resumed_from: str | None
    skipped_checkpoints: tuple[SkippedCheckpoint, ...]
    carried: RlCarried | None = None
    """As given to `save_rl`; None on a fresh start."""
