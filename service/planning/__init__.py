"""What follows from a specification before anything runs: derived numbers, and every reason why it cannot run."""

from service.planning.data_preview import DataPreviewer
from service.planning.memory_plan import Memory
from service.planning.plan import plan_experiment
from service.planning.settings_checks import Capacity

__all__ = ["Capacity", "DataPreviewer", "Memory", "plan_experiment"]
