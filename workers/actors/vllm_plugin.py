"""What every vLLM process loads through the entry point group `vllm.general_plugins`."""

import logging
from contextlib import suppress

from workers.weight_sync import BACKEND


def register() -> None:
    """Make our way of taking weights known to this process; vLLM may call it several times."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    with suppress(ValueError):  # registered already
        WeightTransferEngineFactory.register_engine(
            BACKEND, "workers.actors.vllm_weight_transfer", "SharedMemoryWeightTransferEngine"
        )
    # It warns at each update of tied and weightless layers; our engine tells these from real omissions, and raises.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
