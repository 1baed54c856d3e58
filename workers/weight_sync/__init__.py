"""What trainer, driver and rollout engines must agree on to move weights: the file, where it lies, and the orders.

    layout          how a weight file is laid out, and what its header says
    weight_folder   where weight files lie, and that nothing is left behind
    orders          what an engine is told about one update, and what it answers

Standard library only: every process of a run can import this package, and none needs torch to judge a file.
"""

from workers.weight_sync.failure import WeightSyncFailed
from workers.weight_sync.layout import TensorPlace, WeightLayout, lay_out, require_shapes, tensor_shapes
from workers.weight_sync.orders import SendReport, UpdateOrder, UpdateReport, WeightManifest
from workers.weight_sync.weight_folder import LandingFolder, WeightFolder, landing_folder, weight_folder

BACKEND = "sedray"
"""The name under which vLLM knows our way of taking weights."""

__all__ = [
    "BACKEND",
    "LandingFolder",
    "SendReport",
    "TensorPlace",
    "UpdateOrder",
    "UpdateReport",
    "WeightFolder",
    "WeightLayout",
    "WeightManifest",
    "WeightSyncFailed",
    "landing_folder",
    "lay_out",
    "require_shapes",
    "tensor_shapes",
    "weight_folder",
]
