"""What every vLLM process loads through the entry point group `vllm.general_plugins`."""

import logging
import os
from contextlib import suppress
from multiprocessing import parent_process
from threading import Thread

from workers.weight_sync import BACKEND


def register() -> None:
    """Make our way of taking weights known to this process, and tie its life to its parent's.

    vLLM may call it several times in a process.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    with suppress(ValueError):  # registered already
        WeightTransferEngineFactory.register_engine(
            BACKEND, "workers.actors.vllm_weight_transfer", "SedrayWeightTransferEngine"
        )
    # It warns at each update of tied and weightless layers; our engine tells these from real omissions, and raises.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
    if parent_process() is not None:
        Thread(target=_end_with_parent, daemon=True, name="end-with-parent").start()


def _end_with_parent() -> None:
    """End this process when its parent is gone.

    The engine core doesn't notice when the process that started it is killed: it would keep its memory, its GPU and a
    worker for ever. It ends with its owner, and the worker with the engine core.
    """
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # nothing to save; a regular exit could wait for locks that the dead parent held
