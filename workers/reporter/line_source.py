"""Whose line it is: Ray copies what actors print to the driver, and puts their name and process before it."""

import re

DRIVER = "driver"
_PREFIX = re.compile(r"^\((?P<name>[A-Za-z_][^()]{0,60}?) pid=(?P<pid>\d+)(?:, ip=[^)]*)?\)")
_OTHER = re.compile(r"[^A-Za-z0-9_.:=-]")


def source_of(line: str) -> str:
    """`Trainer:4711` for `(Trainer pid=4711) loss 0.3`; `driver` for a line without such a mark."""
    found = _PREFIX.match(line)
    return f"{_OTHER.sub('-', found['name'])}:{found['pid']}" if found else DRIVER
