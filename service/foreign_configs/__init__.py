"""Configurations of other systems read into an `ExperimentSpec`: pure tables, no files, nothing of the other system.

The tables know the options of TRL 1.16 (with names that older versions had) and of verl 0.8. Where a file says
nothing, the other system's default is written, because that is what would have run.
"""

from service.foreign_configs.flattening import UnreadableConfig
from service.foreign_configs.result import read_configs

__all__ = ["UnreadableConfig", "read_configs"]
