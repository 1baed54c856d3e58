"""Which rows of a source are used, and whether it has as many as it should."""

from collections.abc import Iterator

from service.contract.data import DataSource
from service.planning.record_readers import Entry

UNEXPECTED_ROWS_HINT = "check that it is the data that was meant, or set expected_rows to null"


class RowWindow:
    """Passes the rows on that `skip_rows` and `num_rows` leave, and counts."""

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._num_read = 0
        self._at_end = False

    def used(self, entries: Iterator[tuple[int, Entry]]) -> Iterator[tuple[int, Entry]]:
        """The rows within the window, with their numbers."""
        source = self._source
        end = None if source.num_rows is None else source.skip_rows + source.num_rows
        for entry in entries:
            if self._num_read == end:
                return
            self._num_read += 1
            if self._num_read > source.skip_rows:
                yield entry
        self._at_end = True

    def problem(self) -> str | None:
        """What is wrong with the number of rows, if the source was read to its end."""
        return unexpected_rows(self._source, self._num_read) if self._at_end else None


def unexpected_rows(source: DataSource, num_rows: int) -> str | None:
    """What is wrong with a source of so many rows; None if nothing is."""
    if source.expected_rows in (None, num_rows):
        return None
    return f"{source.path} holds {num_rows} rows, not the {source.expected_rows} that are expected of it"


def rows_in_window(source: DataSource, num_rows: int) -> int:
    """How many of so many rows are used."""
    left = max(0, num_rows - source.skip_rows)
    return left if source.num_rows is None else min(left, source.num_rows)
