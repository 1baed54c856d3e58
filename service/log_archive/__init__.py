"""Logs that outlive Ray and do not grow the database: the newest lines are rows, older ones lie in the storage.

    driver ──report──> rows (newest) ──ship, 2,000 at a time──> <output>/logs/<first id>-<last id>.jsonl.gz
                          └───────────────── reader: one order of ids over both ──────────────┘

A line's id is its offset: a reader goes on behind the last one that it has, wherever the line lies by then.
"""

from service.log_archive.files import ArchivedLine
from service.log_archive.reading import LogFilter, LogReader
from service.log_archive.shipping import Keep, ship_logs

__all__ = ["ArchivedLine", "Keep", "LogFilter", "LogReader", "ship_logs"]
