"""Tables and text as Markdown."""

from collections.abc import Iterable, Iterator, Sequence

from service.study_report.rendering.text import one_line


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table and the empty line behind it."""
    yield _line(head)
    yield _line(["---"] * len(head))
    yield from (_line(row) for row in rows)
    yield ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(escape(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def escape(text: str) -> str:
    """On one line, and without markup of its own."""
    return one_line(text).replace("<", "&lt;")
