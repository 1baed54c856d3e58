"""The one error of a run that another attempt would only repeat."""


class ConfigError(Exception):
    """The model, the data or a setting cannot work; another attempt would fail in the same way."""


def first_line(error: Exception) -> str:
    """What a library says, short enough to stand within our own sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
