"""Tools that only an export needs."""

from importlib.util import find_spec


class MissingExtra(Exception):
    """A tool is not installed; the message says what to install."""


def require(module: str, tool: str, extra: str = "mirrors") -> None:
    """Raises MissingExtra unless the module can be imported."""
    if find_spec(module) is None:
        raise MissingExtra(f"{tool} is not installed here: pip install 'sedray[{extra}]'")
