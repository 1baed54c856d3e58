"""The work of one attempt: connect to Ray, place the actors, run the stages, and leave nothing behind."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.contract.data import PromptData
from service.contract.messages import StageResult, StartReply
from workers.config_error import ConfigError
from workers.data.prompt_dataset import load_prompts
from workers.pipeline.endings import ClusterLost
from workers.pipeline.interrupts import Interrupts
from workers.pipeline.stage_runner import run_stages
from workers.placement import Placement, place
from workers.reporter.give_way import Preempted
from workers.reporter.reporter import Cancelled, Reporter
from workers.rollouts import Prompt
from workers.stages.engine_pool import EnginePool
from workers.stages.lent_engines import LentEngines
from workers.stages.remote_actors import RemoteTrainer
from workers.stages.remote_engine import EngineHost
from workers.stages.roles import LoadPrompts
from workers.stages.shared_file_sync import SharedFileSync
from workers.stages.stage_context import StageContext
from workers.tokenizer_loading import load_tokenizer
from workers.weight_sync import weight_folder

logger = logging.getLogger(__name__)

PLACEMENT_S = 300.0
_GRACEFUL_S = 15.0
_GRACEFUL_CANCEL_S = 3.0
_SETUP_HOOK = "workers.log_capture.configure_logging"


def drive(orders: StartReply, reporter: Reporter, interrupts: Interrupts) -> list[StageResult]:
    """Run all that the orders leave to do; the results of all stages, or the exception that ended the run."""
    reporter.progress(None, "connecting to ray", 0, 0)
    with _connected(orders, interrupts), ExitStack() as cleanup:
        reporter.progress(None, "placing actors", 0, 0)
        placement = place(orders.spec.resources, nodes=orders.nodes, deadline_s=PLACEMENT_S, check=interrupts.check)
        cleanup.callback(placement.remove)
        folder = cleanup.enter_context(weight_folder(orders.attempt_id, root=_weight_root(placement, orders)))
        trainer = RemoteTrainer(placement, orders.spec, interrupts.check)
        engines = EnginePool(EngineHost(placement, orders.spec), reporter, interrupts.check)
        context = StageContext(
            spec=orders.spec,
            output_dir=orders.output_dir,
            trainer=trainer,
            engine=engines,
            sync_weights=SharedFileSync(trainer, engines, folder),
            reports=reporter,
            load_prompts=_prompt_loader(orders.spec.model.path),
            check=interrupts.check,
            give_way=reporter.give_way,
            reused={stage.stage: stage for stage in orders.reused_stages},
        )
        with _lent(engines, reporter), _released(trainer, engines):
            return run_stages(context, orders.completed_stages, reporter.stage_result)


@contextmanager
def _connected(orders: StartReply, interrupts: Interrupts) -> Iterator[None]:
    try:
        ray.init(
            address="auto",
            namespace=f"sedray-{orders.attempt_id}",
            runtime_env={"worker_process_setup_hook": _SETUP_HOOK},
            logging_level=logging.WARNING,
        )
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ClusterLost(
            f"no Ray cluster can be reached from the driver: {error}; the driver must run as a Ray job"
        ) from error
    finally:
        interrupts.listen()
    try:
        yield
    finally:
        ray.shutdown()
        interrupts.listen()


@contextmanager
def _released(trainer: RemoteTrainer, engines: EnginePool) -> Iterator[None]:
    """End all actors, however the block ends: gently after success, quickly after a cancellation, else at once.

    The trainer goes first: another attempt may begin as soon as this one has ended, and shares its checkpoints.
    """
    graceful_s = 0.0
    try:
        yield
        graceful_s = _GRACEFUL_S
    except (Cancelled, Preempted):
        graceful_s = _GRACEFUL_CANCEL_S
        raise
    finally:
        trainer.release()
        engines.release(graceful_s)


@contextmanager
def _lent(engines: EnginePool, reporter: Reporter) -> Iterator[None]:
    """Take the further engines that the scheduler lends, and give them back when it asks."""
    lent = LentEngines(engines, reporter)
    reporter.on_lent_engines = lent.want
    lent.start()
    try:
        yield
    finally:
        lent.stop()


def _weight_root(placement: Placement, orders: StartReply) -> Path | None:
    """Where weight files go: shared memory (None) where driver and actors share a machine, else the output folder."""
    if placement.same_node:
        return None
    filesystem, path = url_to_fs(orders.output_dir)
    if not isinstance(filesystem, LocalFileSystem):
        raise ConfigError(
            f"driver, trainer and rollout engines are not on one machine, and {orders.output_dir} is no folder that "
            "they could share for weights; use nodes that hold a whole experiment, or a shared folder for the outputs"
        )
    root = Path(path) / "weights"
    root.mkdir(parents=True, exist_ok=True)
    return root


def _prompt_loader(model_path: str) -> LoadPrompts:
    tokenizer = load_tokenizer(model_path)

    def load(data: PromptData, max_prompt_tokens: int, limit: int | None) -> list[Prompt]:
        return load_prompts(data, tokenizer, max_prompt_tokens, limit)

    return load
