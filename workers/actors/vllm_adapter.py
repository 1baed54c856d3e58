"""All calls into vLLM 0.32 but those in `vllm_weights`, which change weights, and in `vllm_sleep`.

Another release changes these three, `vllm_plugin`, `vllm_weight_transfer` and `vllm_cpu_worker` only.

vLLM reads the environment when it is imported and starts processes of its own (the engine core, and a worker for each
GPU), which inherit it. So it is imported in `VllmEngine.start` and nowhere at the top of a module.
"""

import asyncio
import logging
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points, version
from threading import Event
from typing import Any

import psutil

from service.contract.memory_sizes import (
    GPU_MEMORY_UTILIZATION,
    KV_CACHE_BYTES_ON_CPU,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQUENCES,
)
from service.contract.spec import ModelSpec
from workers.actors.vllm_sleep import VllmSleep
from workers.actors.vllm_weights import VllmWeights
from workers.rollouts import SamplingParameters, VersionSpan
from workers.weight_sync import BACKEND

_PLUGIN = "sedray_weight_transfer"
SEED_KEY = "sedray_seed"
"""Under which a request to an engine on the CPU brings its seed, among vLLM's `extra_args`; below 2^63."""
NORM_PROVIDER = "sedray_cpu"
"""The name under which vLLM knows our worker's norms."""
_CPU_WORKER = "workers.actors.vllm_cpu_worker.RolloutCpuWorker"
_BLOCK_ON_CPU = 32
"""Tokens of a block of keys and values, the fewest that vLLM's attention on the CPU takes. Completions share only whole
blocks of their prompt; vLLM's own choice, 128, leaves most prompts unshared."""
_GONE_AFTER_S = 10.0
"""How long killed processes may take to vanish."""


class EngineFailed(Exception):
    """vLLM did not start, stopped answering or gave an answer that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine is started with."""

    model: ModelSpec
    seed: int
    num_cpus: float
    num_gpus: float
    tensor_parallel_size: int
    eos_token_ids: tuple[int, ...]
    works_by_turns: bool = False
    """Whether it sleeps while somebody else uses its bundle."""

    @property
    def can_sleep(self) -> bool:
        """Whether it can give memory back: vLLM knows no sleep on a CPU."""
        return self.works_by_turns and self.num_gpus > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """One finished request, in vLLM's terms."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token under the distribution that it was drawn from, [len(token_ids)]."""
    finish_reason: str
    """`stop` or `length`; `abort` for a request that was given up."""
    version_spans: tuple[VersionSpan, ...]
    """Which weights drew which tokens; their labels are numbers. Empty if vLLM did not say."""


class VllmEngine:
    """One `AsyncLLM` and the processes that belong to it."""

    def __init__(self, llm: Any, settings: EngineSettings, processes: list[psutil.Process]) -> None:
        """Use `start`, which makes the parts."""
        self._llm = llm
        self._settings = settings
        self._processes = processes
        self.sleep = VllmSleep(llm, frees_memory=settings.can_sleep)
        self.weights = VllmWeights(llm, self.sleep)

    @classmethod
    async def start(cls, settings: EngineSettings, deadline_s: float) -> "VllmEngine":
        """Start vLLM's processes and load the model.

        Raises EngineFailed if vLLM gives up or isn't ready within `deadline_s`; its processes are ended then.
        """
        _require_plugin()
        set_environment(settings, deadline_s)
        before = set(_children())
        # In a thread: vLLM waits for its processes without giving the event loop a turn, and without a limit.
        given_up = Event()
        building = asyncio.ensure_future(asyncio.to_thread(_build, settings, given_up))
        try:
            llm = await asyncio.wait_for(asyncio.shield(building), deadline_s)
        except TimeoutError:
            raise EngineFailed(
                f"vLLM was not ready after {deadline_s:.0f} s; give it more time, or look for what held it in the "
                "driver's log"
            ) from None
        except (RuntimeError, ValueError, OSError, TypeError, ImportError) as error:
            raise EngineFailed(f"vLLM did not start: {type(error).__name__}: {error}") from error
        finally:
            if not building.done() or building.exception() is not None:
                given_up.set()
                _end(_new_children(before))
                # Its processes are gone, so the thread gives up soon; nobody is left to see how.
                building.add_done_callback(_drop_outcome)
        return cls(llm, settings, _new_children(before))

    async def sample(
        self, request_id: str, prompt_token_ids: tuple[int, ...], seed: int, sampling: SamplingParameters
    ) -> SampledTokens:
        """Draw one completion. If the caller is cancelled, vLLM is told to give the request up.

        Raises EngineFailed if vLLM refuses the request or has died.
        """
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        prompt = tokens_input(list(prompt_token_ids))
        parameters = self._sampling_params(seed, sampling)
        output = None
        try:
            async for latest in self._llm.generate(prompt, parameters, request_id):
                output = latest
        except (EngineDeadError, EngineGenerateError, ValueError) as error:
            raise EngineFailed(f"vLLM failed on a request: {type(error).__name__}: {_cause(error)}") from error
        if output is None or not output.finished:
            raise EngineFailed("vLLM ended a request without an answer; its log says why")
        return _sampled(output.outputs[0])

    def _sampling_params(self, seed: int, sampling: SamplingParameters) -> Any:
        """The full distribution at a temperature; log-prob of the sampled token only; text is decoded by the caller."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=-1,
            max_tokens=sampling.max_completion_length,
            **({"extra_args": {SEED_KEY: seed}} if self._settings.num_gpus == 0 else {"seed": seed}),
            logprobs=0,
            flat_logprobs=True,
            stop_token_ids=list(self._settings.eos_token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # made for this request alone
        )

    def tokens_by_request(self) -> dict[str, int]:
        """What has been sampled so far of each request that vLLM works on; vLLM has no name of its own for this."""
        states = self._llm.output_processor.request_states
        return {name: state.detokenizer.num_output_tokens() for name, state in states.items()}

    def num_unfinished_requests(self) -> int:
        """Requests that vLLM still works on."""
        return int(self._llm.get_num_unfinished_requests())

    async def shutdown(self) -> None:
        """End vLLM's processes by force: there is nothing to save, and a polite exit takes each of them seconds of CPU.

        Shared memory that they leave is freed by Python's resource tracker when this process ends.
        """
        llm, self._llm = self._llm, None
        logging.getLogger("vllm").setLevel(logging.CRITICAL)  # it takes the end for an accident
        await asyncio.to_thread(_shut_down, llm, self._processes)


def set_environment(settings: EngineSettings, deadline_s: float) -> None:
    """Set what vLLM reads from the environment; it offers no other way for these."""
    threads = str(max(1, math.floor(settings.num_cpus)))
    os.environ.update(
        {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # binding would put several engines of a machine on the same cores
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_DO_NOT_TRACK": "1",
            "VLLM_PLUGINS": _PLUGIN,
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_ENGINE_READY_TIMEOUT_S": str(math.ceil(deadline_s)),
        }
    )
    if settings.num_gpus == 0:
        # Lets the engine core be the worker too. vLLM forbids that on the CPU for the sake of binding threads, which is
        # off; a process of its own costs another start, 0.6 GB and a quarter more CPU per token.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def _build(settings: EngineSettings, given_up: Event) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig
    from vllm.v1.engine.async_llm import AsyncLLM

    model = settings.model
    arguments = AsyncEngineArgs(
        model=model.path,
        dtype=model.dtype,
        max_model_len=model.max_model_len,
        seed=settings.seed,
        # Compilation takes longer than a small model's whole run, and compiled kernels round differently.
        enforce_eager=True,
        # Log-probs of the distribution that tokens are drawn from: after the temperature.
        logprobs_mode="processed_logprobs",
        # The completions of a group share their prompt's keys and values; a weight update clears the cache.
        enable_prefix_caching=True,
        max_num_seqs=MAX_NUM_SEQUENCES,
        max_num_batched_tokens=max(MAX_NUM_BATCHED_TOKENS, model.max_model_len),
        # The folder's own defaults (top-p and the like) must not change the distribution.
        generation_config="vllm",
        skip_tokenizer_init=True,
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        # In order of arrival, but for the probe of a weight sync, which may not wait for a full engine's rollouts.
        scheduling_policy="priority",
        enable_sleep_mode=settings.can_sleep,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **_hardware_arguments(settings),
    )
    if given_up.is_set():
        raise EngineFailed("given up while vLLM was imported")
    return AsyncLLM.from_engine_args(arguments)


def _hardware_arguments(settings: EngineSettings) -> dict[str, Any]:
    if settings.num_gpus == 0:
        return {
            "kv_cache_memory_bytes": KV_CACHE_BYTES_ON_CPU,
            "distributed_executor_backend": "uni",
            "worker_cls": _CPU_WORKER,
            "ir_op_priority": {"rms_norm": [NORM_PROVIDER], "fused_add_rms_norm": [NORM_PROVIDER]},
            "block_size": _BLOCK_ON_CPU,
        }
    return {
        "tensor_parallel_size": settings.tensor_parallel_size,
        # Not left to vLLM: within a placement group it would ask Ray for workers of its own, whose GPUs we hold.
        "distributed_executor_backend": "mp" if settings.tensor_parallel_size > 1 else "uni",
        "gpu_memory_utilization": GPU_MEMORY_UTILIZATION * min(1.0, settings.num_gpus),
    }


def _require_plugin() -> None:
    if not entry_points(group="vllm.general_plugins", name=_PLUGIN):
        raise EngineFailed(
            f"vLLM cannot take weights from the trainer: entry point {_PLUGIN!r} is not installed on this machine; "
            f"install the package there (`pip install .`), not only its files"
        )


def vllm_version() -> str:
    """Version of the installed vLLM, whatever its distribution is called."""
    import vllm

    return str(getattr(vllm, "__version__", "") or version("vllm"))


def _sampled(completion: Any) -> SampledTokens:
    token_ids = tuple(completion.token_ids)
    logprobs = completion.logprobs
    positions = () if logprobs is None else logprobs.start_indices
    # Flat form: one entry a position, since only the sampled token's log-prob is asked for.
    assert len(positions) == len(token_ids) and all(
        logprobs.token_ids[start] == token for start, token in zip(positions, token_ids, strict=True)
    ), "log-probs of other tokens than the sampled ones"
    return SampledTokens(
        token_ids=token_ids,
        logprobs=tuple(logprobs.logprobs[start] for start in positions),
        finish_reason=str(completion.finish_reason),
        version_spans=tuple(
            VersionSpan(version=int(span.version), start=span.start, end=span.end)
            for span in completion.weight_versions or []
        ),
    )


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ or error


def _drop_outcome(building: "asyncio.Future[Any]") -> None:
    if not building.cancelled() and building.exception() is None:
        building.result().shutdown(timeout=0.0)


def _shut_down(llm: Any, processes: list[psutil.Process]) -> None:
    known = [*processes, *(child for process in processes for child in _descendants(process))]
    llm.shutdown(timeout=0.0)
    _end(known)


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _new_children(before: set[psutil.Process]) -> list[psutil.Process]:
    return [process for process in _children() if process not in before and not _is_resource_tracker(process)]


def _is_resource_tracker(process: psutil.Process) -> bool:
    """Python's own process that frees leaked semaphores; it is shared and ends with this process."""
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(processes: list[psutil.Process]) -> None:
    """Kill what still lives and wait until it is gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_GONE_AFTER_S)
