"""Text that every JSON encoder and PostgreSQL accept."""


def storable(text: str) -> str:
    """The text with NUL characters and lone surrogates replaced by U+FFFD: neither fits into a text column."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
