"""Gold answers in mathematics are parsed by the workers' own code, in a process that can be stopped.

Parsing can take for ever, and the control plane carries no computer algebra.
"""

import json
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from service.planning.deadline import Deadline

logger = logging.getLogger(__name__)

MAX_PARSED = 2000
"""Gold answers of one data set; the run reads each of them again and stops at one that is none."""
_SHARE_OF_TIME = 0.8
"""Of what is left until the deadline, so that the findings are not late themselves."""
_ROOT = Path(__file__).resolve().parents[2]
_BOOT = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from workers.rewards.check_golds import main; main()"


def parse_math_golds(golds: Sequence[str], python: str, deadline: Deadline) -> list[str | None]:
    """The problem of each gold answer, None for a good one; the list is shorter than `golds` if time ran out.

    `python` is an interpreter with sedray's `preview` extra, or more. It inherits nothing. Blocks.
    """
    limit_s = deadline.remaining_s * _SHARE_OF_TIME
    with tempfile.TemporaryDirectory(prefix="sedray-golds-") as folder, tempfile.TemporaryFile() as output:
        try:
            process = _start(python, folder, output)
        except OSError as error:
            logger.error("gold answers cannot be parsed", extra={"python": python, "error": str(error)})
            return []
        try:
            process.communicate(json.dumps(list(golds)).encode(), timeout=limit_s)
        except subprocess.TimeoutExpired:
            logger.warning("gold answers not parsed in time", extra={"limit_s": limit_s, "count": len(golds)})
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        output.seek(0)
        whole = output.read().decode(errors="replace").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _start(python: str, folder: str, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [python, "-P", "-c", _BOOT],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "PYTHONUTF8": "1"},
        cwd=folder,
        start_new_session=True,
    )
