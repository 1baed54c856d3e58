"""Makes the preview with the code that makes the run's samples, so that both show the same."""

from collections.abc import Sequence
from statistics import median_low

from transformers import PreTrainedTokenizerBase

from service.contract.data import PromptData
from service.contract.preview import (
    SHOWN_TOKENS,
    DataPreview,
    DataSetPreview,
    LengthHistogram,
    PreviewedSample,
    PreviewRequest,
)
from service.contract.stages import SftSpec
from workers.data.prompt_dataset import read_prompts
from workers.data.sft_dataset import read_sft_data
from workers.data.token_pieces import token_pieces
from workers.data.token_sequence import TokenSequence
from workers.rollouts import Prompt
from workers.tokenizer_loading import load_tokenizer

_NUM_BINS = 20


def build_preview(request: PreviewRequest) -> DataPreview:
    """Read the first records of every data set. Raises ConfigError for what cannot be used at all."""
    return _Preview(request).build()


def length_histogram(lengths: Sequence[int]) -> LengthHistogram:
    """At most 20 bins, whose width is a round number."""
    longest = max(lengths, default=0)
    width = next(step * 10**power for power in range(9) for step in (1, 2, 5) if longest < step * 10**power * _NUM_BINS)
    counts = [0] * (longest // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return LengthHistogram(
        bin_width=width, counts=counts, median=median_low(lengths) if lengths else 0, longest=longest
    )


class _Preview:
    def __init__(self, request: PreviewRequest) -> None:
        self._request = request
        self._spec = request.spec
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(request.spec.model.path)

    def build(self) -> DataPreview:
        data_sets = []
        if self._spec.sft:
            data_sets.append(self._supervised(self._spec.sft))
        if self._spec.rl:
            data_sets.append(self._prompts("rl", self._spec.rl.data, self._spec.rl.max_completion_length))
        for where, one in self._spec.evaluation_sets().items():
            data_sets.append(self._prompts(where, one.data, one.max_completion_length, limit=one.num_prompts))
        return DataPreview(data_sets=data_sets)

    def _supervised(self, spec: SftSpec) -> DataSetPreview:
        dataset, refusals = read_sft_data(spec, self._tokenizer, max_records=self._request.max_records)
        return DataSetPreview(
            name="sft",
            path=spec.data.path,
            is_complete=not dataset.is_cut_short,
            num_records=dataset.num_records,
            num_samples=len(dataset.samples),
            num_held_out=dataset.num_held_out,
            num_dropped=dataset.num_dropped,
            num_truncated=dataset.num_truncated,
            lengths=length_histogram(dataset.lengths),
            samples=[self._shown(sample) for sample in dataset.samples[: self._request.num_samples]],
            refusals=refusals,
            **dataset.lineage.as_facts(),
        )

    def _prompts(self, name: str, data: PromptData, num_answer_tokens: int, limit: int | None = None) -> DataSetPreview:
        most = self._request.max_records
        # One more than is shown tells whether there are more.
        prompts = read_prompts(data, self._tokenizer, min(limit or most + 1, most + 1))
        is_complete = len(prompts) <= most
        prompts = prompts[:most]
        lengths = [len(prompt.token_ids) for prompt in prompts]
        room = self._spec.model.max_model_len - num_answer_tokens
        num_beyond = sum(not 1 <= length <= room for length in lengths)
        refusal = f"{num_beyond} of {len(prompts)} prompts have no token or more than the {room} that fit"
        return DataSetPreview(
            name=name,
            path=data.path,
            is_complete=is_complete,
            num_records=len(prompts),
            num_samples=len(prompts),
            lengths=length_histogram(lengths),
            samples=[self._shown_prompt(prompt) for prompt in prompts[: self._request.num_samples]],
            refusals=[refusal] if num_beyond else [],
        )

    def _shown(self, sample: TokenSequence) -> PreviewedSample:
        is_trained = sample.is_trained or (True,) * len(sample.completion_token_ids)
        flags = [False] * len(sample.prompt_token_ids) + list(is_trained)
        token_ids = sample.prompt_token_ids + sample.completion_token_ids
        return PreviewedSample(
            tokens=token_pieces(self._tokenizer, token_ids[:SHOWN_TOKENS]),
            is_trained=flags[:SHOWN_TOKENS],
            num_tokens=len(token_ids),
            num_trained_tokens=sample.num_labels,
        )

    def _shown_prompt(self, prompt: Prompt) -> PreviewedSample:
        tokens = token_pieces(self._tokenizer, prompt.token_ids[:SHOWN_TOKENS])
        return PreviewedSample(
            tokens=tokens,
            is_trained=[False] * len(tokens),
            num_tokens=len(prompt.token_ids),
            num_trained_tokens=0,
            answer=prompt.answer,
        )
