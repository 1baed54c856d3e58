"""The work of one attempt: connect to Ray, place the actors, run the stages, and leave nothing behind."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import ray

from service.contract.data import PromptData
from service.contract.messages import StageResult, StartReply
from workers.data.prompt_dataset import load_prompts
from workers.pipeline.endings import ClusterLost
from workers.pipeline.interrupts import Interrupts
from workers.pipeline.stage_runner import run_stages
from workers.pipeline.stall_watchdog import Remedies, StallWatchdog
from workers.placement import place
from workers.reporter.give_way import Preempted
from workers.reporter.reporter import Cancelled, Reporter
from workers.rollouts import Prompt
from workers.stages.engine_pool import EnginePool
from workers.stages.lent_engines import LentEngines
from workers.stages.open_transport import open_transport
from workers.stages.remote_actors import RemoteTrainer
from workers.stages.remote_engine import EngineHost
from workers.stages.roles import LoadPrompts
from workers.stages.run_check import RunCheck
from workers.stages.stage_context import StageContext
from workers.stages.turns import by_turns
from workers.stages.weight_probe import LazyProbe, make_probe
from workers.stages.weight_synchroniser import WeightSynchroniser
from workers.tokenizer_loading import load_tokenizer

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
        placement = place(
            orders.spec.held_resources, nodes=orders.nodes, deadline_s=PLACEMENT_S, check=interrupts.check
        )
        cleanup.callback(placement.remove)
        check = RunCheck(interrupts.check)
        trainer = RemoteTrainer(placement, orders.spec, check)
        reports = StallWatchdog(
            reporter,
            orders.spec.stall,
            Remedies(
                inspect=placement.inspect,
                replace_engine=lambda number, cause: engines.replace(number, cause),
                replace_trainer=trainer.end,
            ),
        )
        engines = EnginePool(EngineHost(placement, orders.spec), reports, check)
        load_prompts = _prompt_loader(orders.spec.model.path)
        sync_weights = WeightSynchroniser(
            trainer=trainer,
            engines=engines,
            transport=open_transport(orders, placement, trainer, cleanup),
            probe=LazyProbe(lambda: make_probe(orders.spec, load_prompts)),
            settings=orders.spec.weight_sync,
        )
        context = StageContext(
            spec=orders.spec,
            output_dir=orders.output_dir,
            trainer=trainer,
            engine=engines,
            sync_weights=sync_weights,
            reports=reports,
            load_prompts=load_prompts,
            check=check,
            give_way=reporter.give_way,
            reused={stage.stage: stage for stage in orders.reused_stages},
        )
        held = (_lent(engines, reporter), _released(trainer, engines))
        with held[0], held[1], check.extended_by(reports.check), reports, ExitStack() as turns:
            if orders.spec.resources.placement == "colocated":
                context = turns.enter_context(by_turns(context, engines))
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


def _prompt_loader(model_path: str) -> LoadPrompts:
    tokenizer = load_tokenizer(model_path)

    def load(data: PromptData, max_prompt_tokens: int, limit: int | None) -> list[Prompt]:
        return load_prompts(data, tokenizer, max_prompt_tokens, limit)

    return load
