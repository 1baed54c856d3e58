"""The rollout engine: samples completions from the current policy with vLLM and takes new weights from the trainer.

    new ── start ──> running ── generate, ping, update_weights, confirm_weights ──> running
                        │ an update fails half-way, or nobody confirms it           │ shutdown
                        v                                                           v
                     broken: every call raises EngineFailed ─────────────────────> ended

A plain class of coroutines; Ray makes an actor of it elsewhere. Token ids go in and come out: vLLM has no tokenizer.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from service.contract.data import ChatSpec
from service.contract.spec import ModelSpec
from workers.activity.record import about
from workers.actors.engine_weights import EngineWeights
from workers.actors.vllm_adapter import EngineFailed, EngineSettings, SampledTokens, VllmEngine, vllm_version
from workers.actors.vllm_sleep import SleepLevel
from workers.config_error import ConfigError
from workers.data.chat_template import turn_end_token_ids
from workers.rollouts import Completion, EngineFacts, GenerationRequest, Prompt, SamplingParameters
from workers.tokenizer_loading import load_tokenizer
from workers.weight_sync import UpdateOrder, UpdateReport, tensor_shapes

logger = logging.getLogger(__name__)

_LOOK_S = 0.1


class RolloutEngine:
    """One vLLM engine on one machine, holding one policy at a time."""

    def __init__(
        self,
        *,
        model: ModelSpec,
        seed: int,
        num_cpus: float,
        num_gpus: float,
        tensor_parallel_size: int = 1,
        works_by_turns: bool = False,
        chats: tuple[ChatSpec, ...] = (),
    ) -> None:
        """`seed` is vLLM's own; each request brings another. `num_cpus` gives the threads.

        `num_gpus` are the devices that it holds; over `tensor_parallel_size` of them each layer is divided. One that
        `works_by_turns` may be put to sleep.

        `chats` are those of the experiment's data: completions stop at their end-of-turn tokens too.
        """
        self._model = model
        self._chats = chats
        self._seed = seed
        self._num_cpus = num_cpus
        self._num_gpus = num_gpus
        self._tensor_parallel_size = tensor_parallel_size
        self._works_by_turns = works_by_turns
        self._request_numbers = count()
        self._engine: VllmEngine | None = None
        self._failure: str | None = None
        self._weights: EngineWeights | None = None
        self._in_flight: set[asyncio.Task[list[SampledTokens]]] = set()

    async def start(self, deadline_s: float) -> EngineFacts:
        """Load the model into vLLM and generate one token, so that a later slow answer means trouble.

        The weights of the model's folder are policy version 0.

        Raises ConfigError if the folder cannot work at all, EngineFailed if vLLM fails or isn't ready in time.
        """
        assert self._engine is None, "started twice"
        began = time.monotonic()
        self._tokenizer = load_tokenizer(self._model.path)
        turn_ends = turn_end_token_ids(self._tokenizer, self._chats)
        folder_ends = end_token_ids_of_folder(self._model.path, self._tokenizer)
        self._eos_token_ids = tuple(dict.fromkeys((*turn_ends, *folder_ends)))
        shapes = checkpoint_shapes(self._model.path)
        settings = EngineSettings(
            model=self._model,
            seed=self._seed,
            num_cpus=self._num_cpus,
            num_gpus=self._num_gpus,
            tensor_parallel_size=self._tensor_parallel_size,
            works_by_turns=self._works_by_turns,
            eos_token_ids=self._eos_token_ids,
        )
        self._engine = await VllmEngine.start(settings, deadline_s)
        self._weights = EngineWeights(self._engine.weights, shapes, self._break)
        try:
            await self._engine.weights.label("0")
            await self.ping(max(1.0, deadline_s - (time.monotonic() - began)))
        except BaseException:
            await self.shutdown()
            raise
        facts = EngineFacts(
            vllm_version=vllm_version(), eos_token_ids=self._eos_token_ids, start_s=time.monotonic() - began
        )
        logger.info("rollout engine ready", extra={"vllm_version": facts.vllm_version, "start_s": facts.start_s})
        return facts

    @about(lambda requests, *_, **__: _prompts_of(requests))
    async def generate(
        self, requests: list[GenerationRequest], sampling: SamplingParameters, *, deadline_s: float
    ) -> list[Completion]:
        """Draw one completion for each request, in the order of the requests, all of them in flight at once.

        A request's seed decides its randomness. Numerics depend on what shares a forward pass, so the same request can,
        rarely, draw another token in other company. Nothing comes back before an update of the weights that has begun
        is confirmed.

        Raises ConfigError if a prompt leaves no room for the completion, EngineFailed on vLLM's failure or at the
        deadline; the requests are given up then, also when the caller is cancelled.
        """
        engine = self._running()
        self._require_room(requests, sampling)
        task = asyncio.ensure_future(self._sample_all(engine, requests, sampling))
        self._in_flight.add(task)
        try:
            sampled = await asyncio.wait_for(task, deadline_s)
        except TimeoutError:
            raise EngineFailed(
                f"{len(requests)} completions were not done after {deadline_s:.0f} s: vLLM hangs, or the deadline is "
                "too short for this model on this machine"
            ) from None
        except asyncio.CancelledError:
            if self._failure is not None:
                raise EngineFailed(self._failure) from None
            raise
        finally:
            self._in_flight.discard(task)
        return self._completions(requests, sampled)

    async def ping(self, deadline_s: float) -> None:
        """Return once a token has been sampled: one of a request in flight, or one that is asked for this purpose.

        A token of its own would have to queue behind all requests of a full engine. While an update holds up the
        requests there is nothing to see: it has a deadline of its own.

        Raises EngineFailed if none comes within `deadline_s`.
        """
        if self._in_flight:
            await self._see_progress(self._running(), deadline_s)
            return
        prompt = Prompt(uid=0, text="", token_ids=(self._eos_token_ids[0],), answer="")
        request = GenerationRequest(prompt=prompt, sample_index=0, seed=self._seed)
        await self.generate(
            [request], SamplingParameters(temperature=1.0, max_completion_length=1), deadline_s=deadline_s
        )

    async def _see_progress(self, engine: VllmEngine, deadline_s: float) -> None:
        limit = time.monotonic() + deadline_s
        seen = engine.tokens_by_request()
        while self._in_flight and self._updated().is_confirmed:
            await asyncio.sleep(_LOOK_S)
            latest = self._running().tokens_by_request()
            if any(latest.get(name) != num_tokens for name, num_tokens in seen.items()):
                return
            if time.monotonic() > limit:
                raise EngineFailed(f"vLLM hangs: no token of {len(latest)} requests came for {deadline_s:.0f} s")
            seen |= latest

    async def update_weights(self, order: UpdateOrder, content: NDArray[np.uint8] | None = None) -> UpdateReport:
        """Take the trainer's weights from a file, or from the content of one, and score the probe under them.

        Names and shapes are checked first. Requests in flight are frozen meanwhile and go on under the new weights, but
        their completions wait for `confirm_weights`. If the update fails after the check, or is not confirmed before
        the order's deadline, requests in flight fail and the engine answers nothing but `shutdown` any more.

        Raises WeightSyncFailed if the weights were not taken, EngineFailed if the engine was not running.
        """
        return await self._updated().update(order, None if content is None else content.data)

    async def confirm_weights(self, version: int) -> None:
        """The update to `version` is right. Raises WeightSyncFailed if it was not the last one, or has failed since."""
        self._updated().confirm(version)

    async def join_transfer_group(self, init_info: Mapping[str, Any], *, deadline_s: float) -> None:
        """Join the trainer's NCCL group under the ranks that `init_info` gives, and leave the one before.

        Raises EngineFailed at the deadline or if vLLM does; the engine is of no use then, since its worker may hang.
        """
        await self._in_time(self._running().weights.join(init_info), "joining the transfer group", deadline_s)

    async def begin_update(self, *, deadline_s: float) -> None:
        """Freeze requests and make vLLM ready for weights. What follows has `deadline_s` up to `confirm_weights`."""
        await self._updated().begin(deadline_s)

    async def receive_weights(self, payload: Mapping[str, Any]) -> None:
        """Take a part of an update that has begun. Raises WeightSyncFailed."""
        await self._updated().receive(payload)

    async def end_update(self, version: int, probe: tuple[tuple[int, ...], ...]) -> UpdateReport:
        """Make what has come policy `version`, go on, and score the probe. Raises WeightSyncFailed."""
        return await self._updated().end(version, probe)

    async def sleep(self, level: SleepLevel, *, deadline_s: float) -> None:
        """Leave the bundle to somebody else until `wake_up`, or until an update, which must follow level 2.

        Raises EngineFailed at the deadline or if vLLM does; the engine is of no use then.
        """
        assert self._works_by_turns, "vLLM must be started for it"
        await self._in_time(self._running().sleep.sleep(level), "going to sleep", deadline_s)

    async def wake_up(self, *, deadline_s: float) -> None:
        """Take the bundle back; nothing happens if the engine is awake. Raises EngineFailed as `sleep` does."""
        await self._in_time(self._running().sleep.wake(), "waking up", deadline_s)

    async def weight_checksums(self) -> dict[str, str]:
        """SHA-256 of vLLM's parameters by name; linear layers are missing on the CPU.

        Raises EngineFailed if the engine is not running.
        """
        return await self._running().weights.checksums()

    @property
    def num_unfinished_requests(self) -> int:
        """Requests that vLLM has been given and has neither answered nor been told to give up."""
        return self._running().num_unfinished_requests()

    async def shutdown(self) -> None:
        """End vLLM and all its processes; a second call does nothing."""
        engine, self._engine = self._engine, None
        if self._weights is not None:
            self._weights.close()
        if engine is not None:
            self._failure = self._failure or "the rollout engine was shut down; start another one"
            self._give_up_requests()
            await engine.shutdown()

    def _running(self) -> VllmEngine:
        if self._failure is not None:
            raise EngineFailed(self._failure)
        if self._engine is None:
            raise EngineFailed("the rollout engine is not running: call start first")
        return self._engine

    def _updated(self) -> EngineWeights:
        self._running()
        assert self._weights is not None, "made when the engine starts"
        return self._weights

    def _break(self, why: str) -> None:
        self._failure = f"the rollout engine is unusable: {why}; start another engine"
        self._give_up_requests()

    async def _in_time(self, call: Awaitable[None], what: str, deadline_s: float) -> None:
        try:
            await asyncio.wait_for(call, deadline_s)
        except TimeoutError:
            self._break(f"{what} was not done after {deadline_s:.0f} s")
        except Exception as error:  # vLLM reports a worker's failure as a bare Exception
            self._break(f"{what} failed: {error}")
        self._running()

    def _give_up_requests(self) -> None:
        for task in self._in_flight:
            task.cancel()

    def _require_room(self, requests: list[GenerationRequest], sampling: SamplingParameters) -> None:
        longest = max((len(request.prompt.token_ids) for request in requests), default=0)
        if longest + sampling.max_completion_length > self._model.max_model_len:
            raise ConfigError(
                f"a prompt of {longest} tokens and max_completion_length {sampling.max_completion_length} exceed "
                f"model.max_model_len {self._model.max_model_len}; raise it or shorten one of the two"
            )

    async def _sample_all(
        self, engine: VllmEngine, requests: list[GenerationRequest], sampling: SamplingParameters
    ) -> list[SampledTokens]:
        tasks = [
            asyncio.ensure_future(
                engine.sample(str(next(self._request_numbers)), request.prompt.token_ids, request.seed, sampling)
            )
            for request in requests
        ]
        try:
            sampled = await asyncio.gather(*tasks)
            # What was made under weights that nobody has confirmed yet stays here.
            await self._updated().until_confirmed()
            return sampled
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _completions(self, requests: list[GenerationRequest], sampled: list[SampledTokens]) -> list[Completion]:
        assert len(sampled) == len(requests), "one answer for each request"
        # An end token need not be a special one that decoding leaves out.
        said = [[token for token in one.token_ids if token not in self._eos_token_ids] for one in sampled]
        texts = self._tokenizer.batch_decode(said, skip_special_tokens=True)
        return [
            self._completion(request, one, text) for request, one, text in zip(requests, sampled, texts, strict=True)
        ]

    def _completion(self, request: GenerationRequest, sampled: SampledTokens, text: str) -> Completion:
        reason = sampled.finish_reason
        if reason not in ("stop", "length"):
            raise EngineFailed(f"vLLM ended a request with {reason!r} instead of a completion; its log says why")
        stopped = sampled.token_ids[-1] in self._eos_token_ids
        assert stopped == (reason == "stop"), "a completion stops at an end token and nowhere else"
        if not sampled.version_spans:
            raise EngineFailed("vLLM did not say which weights drew a completion, so its age is not known")
        return Completion(
            prompt_uid=request.prompt.uid,
            sample_index=request.sample_index,
            token_ids=sampled.token_ids,
            logprobs=sampled.logprobs,
            finish_reason="stop" if stopped else "length",
            text=text,
            # An update may fall into a completion; it counts as the oldest policy's, so its age is never understated.
            policy_version=min(span.version for span in sampled.version_spans),
            version_spans=sampled.version_spans,
        )


def _prompts_of(requests: list[GenerationRequest]) -> str:
    uids = sorted({request.prompt.uid for request in requests})
    return f"prompts {', '.join(map(str, uids[:5]))}{' …' if len(uids) > 5 else ''}"


def end_token_ids_of_folder(folder: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a completion: the tokenizer's, which is trained, then others of the generation config.

    The same as the trainer finds on the loaded model. Raises ConfigError if the folder has no readable configuration.
    """
    try:
        if (Path(folder) / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
        else:
            generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model folder {folder} has no readable configuration: {error}") from error
    configured = generation.eos_token_id
    others = configured if isinstance(configured, list) else [] if configured is None else [configured]
    return tuple(dict.fromkeys([int(tokenizer.eos_token_id), *others]))


def checkpoint_shapes(folder: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a model folder's safetensors files, a tied output layer left out.

    Raises ConfigError if there are none or they cannot be read.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ConfigError(f"model folder {folder} holds no safetensors file; save the model with save_pretrained")
    try:
        shapes = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
        tied = bool(AutoConfig.from_pretrained(folder, local_files_only=True).tie_word_embeddings)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the weights in {folder} cannot be read: {error}") from error
    if tied:
        shapes.pop("lm_head.weight", None)  # some writers store it twice; the trainer sends it once
    return shapes
