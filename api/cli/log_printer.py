"""Prints a log page by page, and remembers the last line's id: nothing comes twice, nothing is missed."""

import typer

from api.cli.forms import plain, print_entry
from api.client import SedrayClient
from api.schemas import LogLineOut


class LogPrinter:
    """One reader of one log, narrowed by source, attempt or text."""

    def __init__(
        self,
        client: SedrayClient,
        experiment_id: str,
        *,
        as_json: bool,
        source: str | None,
        attempt: int | None,
        search: str | None,
    ) -> None:
        self._client, self._experiment_id, self._as_json = client, experiment_id, as_json
        self._source, self._attempt, self._search = source, attempt, search
        self._after = 0

    def print_newest(self, count: int) -> None:
        """The newest `count` lines."""
        page = self._client.logs(
            self._experiment_id, tail=count, source=self._source, attempt=self._attempt, search=self._search
        )
        self._print(page.items)

    def print_all(self) -> None:
        """Every line from the first one on."""
        self._after = 0
        self.print_new()

    def print_new(self) -> None:
        """Every line behind the last one that was printed."""
        more = True
        while more:
            page = self._client.logs(
                self._experiment_id,
                after=self._after,
                source=self._source,
                attempt=self._attempt,
                search=self._search,
            )
            self._print(page.items)
            more = page.next_after is not None
            self._after = max(self._after, page.next_after or 0)

    def _print(self, lines: list[LogLineOut]) -> None:
        for line in lines:
            print_entry(plain(line)) if self._as_json else typer.echo(line.text)
        self._after = max(self._after, lines[-1].id if lines else 0)
