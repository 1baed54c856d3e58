"""New weights for the rollout engine: weight sync beside saving the model and loading it again.

    .venv/bin/python -m bench.rl_weight_sync [--rounds N] [--sizes 600k 100m] [--json FILE]

    ours        a whole weight sync as a run does it: through Ray, requests paused, names and shapes checked, the probe
                scored on both sides; its phases are logged
    reload      the trainer saves its model as a Hugging Face folder, and a new vLLM engine starts from it
    in place    the trainer saves the same folder, and vLLM's `reload_weights` reads it into the running engine: nothing
                is paused, no cache is cleared and nothing is checked

All on this machine, with one thread each for trainer and engine. A ratio is ours by the peer's in syncs a second: above
1 is better. `weight_sync_vs_reload_speed` is the smaller one of the sizes.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import ray
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from bench.rows import Row
from service.contract.resources import ResourcesSpec
from service.contract.spec import ExperimentSpec
from workers.actors.rollout import RolloutEngine
from workers.placement import Placement, Role, kill, place, wait_for
from workers.stages.engine_pool import EnginePool
from workers.stages.remote_actors import RemoteTrainer
from workers.stages.remote_engine import EngineHost
from workers.stages.weight_probe import DEFAULT_LIMITS, Probe
from workers.stages.weight_synchroniser import WeightSynchroniser
from workers.stages.weight_transports import FileShelf, ShelfTransport
from workers.weight_sync import weight_folder

logger = logging.getLogger(__name__)

ROW = "weight_sync_vs_reload_speed"
SEED = 0
_START_S = 600.0
_SPECIAL = ["<pad>", "<eos>", "<unk>"]
_PROMPT_TOKENS = 24
"""Of each of the probe's four sequences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a Qwen3 with an output layer of its own."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int


SIZES: Mapping[str, Size] = {
    "600k": Size(vocabulary=70, hidden=128, intermediate=384, layers=3, heads=4),
    "100m": Size(vocabulary=32_000, hidden=640, intermediate=1792, layers=14, heads=10),
}
"""0.66 and 106 million parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """Medians."""

    ours: float
    phases: Mapping[str, float]
    reload: float
    in_place: float
    saving: float
    """What the folder took of both reloads."""


class ReloadingEngine(RolloutEngine):
    """The same engine with vLLM's own way of reading a folder again."""

    async def reload(self, folder: str) -> None:
        """All weights of a model folder, in place."""
        await self._running()._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})


class NoReports:
    """Takes the pool's events; an engine that is replaced would make the figures worthless."""

    def event(self, kind: str, message: str, detail: Mapping[str, Any]) -> None:
        """Ends the benchmark."""
        raise SystemExit(f"{kind}: {message}")


def weight_sync_rows(sizes: list[str], rounds: int) -> dict[str, Row]:
    """The rows of all sizes, and the one that is promised."""
    rows: dict[str, Row] = {}
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, _local_ray():
        for name in sizes:
            seconds = measure(Path(folder) / name, SIZES[name], rounds)
            logger.info("%s: %s", name, _shown(seconds))
            rows[f"weight_sync_vs_reload_{name}"] = _row(seconds.ours, seconds.reload)
            rows[f"weight_sync_vs_in_place_reload_{name}"] = _row(seconds.ours, seconds.in_place)
    promised = min((rows[f"weight_sync_vs_reload_{name}"] for name in sizes), key=lambda row: row.ratio)
    return {ROW: promised} | rows


def measure(folder: Path, size: Size, rounds: int) -> Seconds:
    """One size. Weight sync and the reload in place take turns, so what disturbs the machine disturbs both."""
    write_model(folder / "model", size)
    spec, saved = _spec(folder / "model"), str(folder / "saved")
    with ExitStack() as cleanup:
        placement = place(_room_for_two(spec), deadline_s=60.0, check=_go_on)
        cleanup.callback(placement.remove)
        trainer = RemoteTrainer(placement, spec, _go_on)
        cleanup.callback(trainer.release)
        trainer.begin_load()
        trainer.wait_loaded()
        sync = cleanup.enter_context(_started_sync(placement, spec, trainer, size))
        trainer.export(saved)
        peer = _start(placement, spec, saved)
        for version in (1, 2):  # the first one is hashed and looks at each tensor by itself; so slow is no later one
            sync(version)
            _reload(trainer, peer, saved)
        taken, in_place, saving = [], [], []
        for version in range(3, rounds + 3):
            taken.append(_with_seconds(partial(sync, version)))
            saved_s, loaded_s = _reload(trainer, peer, saved)
            in_place.append(saved_s + loaded_s)
            saving.append(saved_s)
        reloads = [_restart(placement, spec, trainer, peer, saved)]
        for _ in range(rounds // 5):
            reloads.append(_restart(placement, spec, trainer, reloads[-1][1], saved))
        kill(reloads[-1][1])
    return Seconds(
        ours=median(seconds for seconds, _ in taken),
        phases=_phases([metrics for _, metrics in taken]),
        reload=median(seconds for seconds, _ in reloads),
        in_place=median(in_place),
        saving=median(saving),
    )


@contextmanager
def _started_sync(
    placement: Placement, spec: ExperimentSpec, trainer: RemoteTrainer, size: Size
) -> Iterator[WeightSynchroniser]:
    reports: Any = NoReports()
    pool = EnginePool(EngineHost(placement, spec), reports, _go_on)
    probe = Probe(sequences=_sequences(size), limit=DEFAULT_LIMITS["float32"])
    with weight_folder("bench") as shared:
        shelf = FileShelf(trainer, shared, "bench", lambda member: True)
        sync = WeightSynchroniser(
            trainer=trainer,
            engines=pool,
            transport=ShelfTransport(shelf),
            probe=lambda: probe,
            settings=spec.weight_sync,
        )
        pool.begin_start()
        try:
            pool.wait_started()
            yield sync
        finally:
            pool.release(15.0)


def _phases(metrics: list[dict[str, float]]) -> dict[str, float]:
    names = sorted(name for name in metrics[0] if name.startswith("timing_s/"))
    return {name.rpartition("/")[2]: median(one[name] for one in metrics) for name in names}


def _reload(trainer: RemoteTrainer, peer: Any, saved: str) -> tuple[float, float]:
    """Seconds of saving, and of reading it in place."""
    saving_s = _timed(lambda: trainer.export(saved))
    return saving_s, _timed(lambda: _wait(peer.reload.remote(saved)))


def _restart(
    placement: Placement, spec: ExperimentSpec, trainer: RemoteTrainer, before: Any, saved: str
) -> tuple[float, Any]:
    """Seconds from saving to the first token of a new engine; the end of the one before is not counted."""
    _wait(before.shutdown.remote())
    kill(before)
    began = time.monotonic()
    trainer.export(saved)
    engine = _start(placement, spec, saved)
    return time.monotonic() - began, engine


def _start(placement: Placement, spec: ExperimentSpec, folder: str) -> Any:
    """A new engine of the peer's that has answered."""
    model = spec.model.model_copy(update={"path": folder})
    engine = placement.spawn(
        ReloadingEngine, Role.ROLLOUT, place=1, max_concurrency=8, model=model, seed=SEED, num_cpus=1.0, num_gpus=0.0
    )
    _wait(engine.start.remote(_START_S))
    return engine


def _room_for_two(spec: ExperimentSpec) -> ResourcesSpec:
    rollout = spec.resources.rollout.model_copy(update={"num_engines": 2})
    return spec.resources.model_copy(update={"rollout": rollout})


def write_model(folder: Path, size: Size) -> None:
    """Random weights, and a tokenizer whose words are `w0`, `w1`, ..."""
    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 2,
        head_dim=size.hidden // size.heads,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    words = [*_SPECIAL, *(f"w{number}" for number in range(size.vocabulary - len(_SPECIAL)))]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)


def _spec(model: Path) -> ExperimentSpec:
    evaluation = {"data": {"path": "/none"}, "reward": {"type": "exact_match"}, "max_completion_length": 8}
    return ExperimentSpec.model_validate(
        {"name": "weight sync", "model": {"path": str(model), "max_model_len": 64}, "evaluation": evaluation}
    )


def _sequences(size: Size) -> tuple[tuple[int, ...], ...]:
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(len(_SPECIAL), size.vocabulary, (4, _PROMPT_TOKENS), generator=generator)
    return tuple(tuple(row) for row in drawn.tolist())


@contextmanager
def _local_ray() -> Iterator[None]:
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _with_seconds(call: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    began = time.monotonic()
    result = call()
    return time.monotonic() - began, result


def _timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _wait(ref: Any) -> Any:
    return wait_for(ref, what="the peer", role=Role.ROLLOUT, deadline_s=_START_S, check=_go_on)


def _row(ours_s: float, peer_s: float) -> Row:
    return Row(ours=1.0 / ours_s, peer=1.0 / peer_s, unit="syncs/s")


def _shown(seconds: Seconds) -> str:
    phases = ", ".join(f"{phase} {spent * 1e3:.1f}" for phase, spent in seconds.phases.items())
    return (
        f"ours {seconds.ours * 1e3:.1f} ms ({phases}); new engine {seconds.reload:.1f} s; in place "
        f"{seconds.in_place * 1e3:.1f} ms; {seconds.saving * 1e3:.1f} ms of both for saving"
    )


def _go_on() -> None:
    """The check of a wait that nothing but its deadline may end."""


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows = weight_sync_rows(arguments.sizes, arguments.rounds)
    logger.info("%-44s %10s %10s %8s", f"load {os.getloadavg()[0]:.1f}", "ours", "peer", "ratio")
    for name, row in rows.items():
        logger.info("%-44s %10.3f %10.3f %8.2f %s", name, row.ours, row.peer, row.ratio, row.unit)
    if arguments.json:
        arguments.json.write_text(json.dumps({name: row.as_json() for name, row in rows.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
