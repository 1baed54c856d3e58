"""Checkpoints and models for the page, which says why where it cannot list them."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import StorageUnavailable
from service.outputs import Output, list_outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputsPart:
    """What is there."""

    location: str
    items: Sequence[Output] = ()
    problem: str = ""
    """Why nothing can be said."""


async def outputs_part(location: str) -> OutputsPart:
    """Hold no session."""
    try:
        return OutputsPart(location=location, items=await list_outputs(location))
    except StorageUnavailable as error:
        return OutputsPart(location=location, problem=error.message)
