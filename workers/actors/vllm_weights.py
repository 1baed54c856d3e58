"""The calls into vLLM 0.32 that replace weights and score token sequences under them; see also `vllm_adapter`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from typing import Any

from workers.actors.vllm_sleep import VllmSleep

_EMPTY_DIGEST = sha256(b"").hexdigest()
_FIRST = -1
"""Priority before all other requests, which have 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A sequence that vLLM has been asked to score."""

    tokens: tuple[int, ...]
    answers: Any
    """Where vLLM puts its answer."""


class VllmWeights:
    """The weights of one `AsyncLLM`. Any exception of vLLM may come out of its methods."""

    def __init__(self, llm: Any, sleep: VllmSleep) -> None:
        self._llm, self._sleep = llm, sleep
        self._numbers = count()

    async def label(self, version: str) -> None:
        """Name the weights that the engine holds now; completions carry it."""
        await self._llm.update_weight_version(version)

    async def pause(self) -> None:
        """Freeze requests in flight and hold back new ones.

        With the cache cleared the frozen ones compute their keys and values again under the new weights, so none
        continues on those of the old policy. The same as `pause_generation(mode="keep")` without its sleep of 20 ms,
        which is there for callers who want earlier outputs first. An engine that sleeps wakes up, its cache last.
        """
        await self._sleep.wake_weights()
        await self._llm.renderer.clear_mm_cache_async()
        await self._llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=True)

    async def resume(self) -> None:
        """Let requests go on."""
        await self._sleep.wake_cache()
        await self._llm.resume_generation()

    async def start(self) -> None:
        """Begin an update. From here to the end of `finish` the model is neither old nor new."""
        await self._llm.start_weight_update()

    async def receive(self, payload: Mapping[str, Any]) -> None:
        """Take one payload of our `WeightUpdate`."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.update_weights(WeightTransferUpdateRequest(update_info=dict(payload)))

    async def finish(self, version: str) -> None:
        """End an update and label the weights."""
        await self._llm.finish_weight_update(version)

    async def join(self, init_info: Mapping[str, Any]) -> None:
        """Join the trainer's NCCL group, after leaving the one before."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=dict(init_info)))

    async def checksums(self) -> dict[str, str]:
        """SHA-256 of the parameters in memory, by worker and name.

        Linear layers are missing on the CPU: vLLM keeps only a packed copy of them, which it doesn't count.
        """
        workers: list[dict[str, str]] = await self._llm.compute_weight_checksums()
        return {
            name: digest for worker in workers for name, digest in sorted(worker.items()) if digest != _EMPTY_DIGEST
        }

    async def ask(self, sequences: Sequence[tuple[int, ...]]) -> list[Question]:
        """Put sequences before all other requests to be scored; a paused engine does it as soon as it goes on."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        questions = []
        for tokens in sequences:
            parameters = SamplingParams(
                max_tokens=1,  # vLLM scores nothing without drawing a token
                prompt_logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            answers = await self._llm.add_request(
                f"probe-{next(self._numbers)}", tokens_input(list(tokens)), parameters, priority=_FIRST
            )
            questions.append(Question(tokens=tokens, answers=answers))
        return questions

    async def scores(self, questions: Sequence[Question]) -> tuple[tuple[float, ...], ...]:
        """Of each sequence, the log-prob of every token but the first.

        At temperature 1 whatever `logprobs_mode` says: vLLM's log-probs of prompts see no sampling parameters.
        """
        return tuple([await _score(question) for question in questions])


async def _score(question: Question) -> tuple[float, ...]:
    output = question.answers.get_nowait() or await question.answers.get()
    found = output.prompt_logprobs
    # Flat form: the entry of each position is that of the token itself; the first token has none.
    positions = found.start_indices[1:]
    assert tuple(found.token_ids[start] for start in positions) == question.tokens[1:], "log-probs of other tokens"
    return tuple(found.logprobs[start] for start in positions)
