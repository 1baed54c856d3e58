"""Why a local stack does not come up."""

from typing import ClassVar

from service.errors import SedrayError


class StackError(SedrayError):
    """The stack cannot start or go on; the message says why and what to do."""

    code: ClassVar[str] = "stack_failed"
    title: ClassVar[str] = "The local stack failed"
