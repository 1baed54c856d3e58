"""Who may order what of the queue: the one place that decides it.

Today whoever has a token may; roles put their dependencies here.
"""

from typing import Annotated

from fastapi import Path

from api.deps import CurrentUser

ExperimentId = Annotated[str, Path(description="An experiment's id.", examples=["exp-01j9z8k7m6n5p4q3"])]
ExperimentReader = CurrentUser
"""Reads an experiment's place."""
ExperimentOperator = CurrentUser
"""Holds, releases and moves an experiment."""
QueueReader = CurrentUser
"""Reads quotas, pauses and windows."""
QueueOperator = CurrentUser
"""Pauses, drains, plans maintenance and sets quotas."""
