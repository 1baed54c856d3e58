"""Which sedray this is."""

from importlib.metadata import PackageNotFoundError, version


def sedray_version() -> str:
    """The installed version; `unknown` where the code was only copied."""
    try:
        return version("sedray")
    except PackageNotFoundError:
        return "unknown"
